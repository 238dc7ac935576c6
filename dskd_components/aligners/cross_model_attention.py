"""Cross-model attention: a soft alignment that is learned with the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dskd_components.aligners.packed_rows import PackedAlignment, PackedRows
from dskd_components.components.aligner import Aligner, AlignerModule
from dskd_components.components.alignment import Alignment
from dskd_components.components.terms import Tally
from dskd_components.errors import InputError
from dskd_components.models.states import small_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from dskd_components.components.projector import ProjectorHeads
    from dskd_components.models.states import LMStates, Side
    from dskd_components.models.token_groups import TokenGroups


Scope = Literal["sample", "batch"]
"""Over what a standard deviation is taken."""

CHUNK: Final = 2**20
"""How many numbers are looked at together, rather than those of a whole batch."""

CHUNK_ELSEWHERE: Final = 2**22
"""The same on accelerators, where no cache is filled and each operation takes a while to start."""


def scored_std(values: Callable[[slice], Tensor], width: int, scored: Tensor, samples: Tensor, scope: Scope) -> Tensor:
    """Return the standard deviation of all entries at the scored positions, for each position.

    Args:
        values: gives ``[b, T, d]`` for some rows of the batch; unscored positions must be finite.
        width: d.
        scored: ``[B, T]``, bool.
        samples: ``[B, T]``, int64: a number that positions of one sample share.
        scope: one standard deviation for each sample, or one for the batch.

    Returns:
        ``[B, T]``: what the values are to be divided by. 1 where all entries are equal, and so have no spread, and at
        unscored positions.

    Examples:
        >>> values = torch.tensor([[[1.0], [3.0], [99.0]]])
        >>> scored = torch.tensor([[True, True, False]])
        >>> scored_std(lambda rows: values[rows], 1, scored, torch.zeros(1, 3, dtype=torch.int64), "sample")
        tensor([[1.4142, 1.4142, 1.0000]])
    """
    return ScoredGroups.of(scored, samples, scope).std(values, width)


class ScoredGroups(NamedTuple):
    """The scored positions over which standard deviations run together.

    Args:
        scored: ``[B, T]``, bool.
        group: ``[B * T]``, int64: the group of each position, below ``B * T``.
        sizes: ``[B, T]``, int64: how many scored positions the group of each position has.
    """

    scored: Tensor
    group: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, scored: Tensor, samples: Tensor, scope: Scope) -> Self:
        """Return the groups; see `scored_std`."""
        return cls._of_numbers(scored, samples if scope == "batch" else small_numbers(samples)[0], scope)

    @classmethod
    def of_states(cls, states: LMStates, scope: Scope) -> Self:
        """Return the groups of one side's scored positions; what they have in common is found out once."""
        return cls._of_numbers(states.scored, states.samples if scope == "batch" else states.sample_numbers, scope)

    @classmethod
    def _of_numbers(cls, scored: Tensor, numbers: Tensor, scope: Scope) -> Self:
        if scope == "batch":
            return cls(scored, torch.zeros_like(numbers).flatten(), scored.sum().expand_as(scored))
        group = numbers.flatten()
        return cls(scored, group, _total(scored.long(), group))

    def std(self, values: Callable[[slice], Tensor], width: int) -> Tensor:
        """Return ``[B, T]``: the standard deviation for each position; see `scored_std`."""
        chunks = list(batch_chunks(self.scored.shape[0], self.scored.shape[1] * width, self.scored.device))
        # What is there at once anyway need not be made twice.
        kept = [values(chunks[0])] if len(chunks) == 1 else None
        entries = self.sizes * width
        means = self._total(torch.cat([part.sum(-1) for part in kept or map(values, chunks)])) / entries.clamp_min(1)
        parts = zip(chunks, kept or map(values, chunks), strict=True)
        squares = torch.cat([(part - means[rows, :, None]).square_().sum(-1) for rows, part in parts])
        std = (self._total(squares) / (entries - 1).clamp_min(1)).sqrt()
        return std.where(self.scored & (std > 0), 1.0)

    def _total(self, of_positions: Tensor) -> Tensor:
        return _total(of_positions.where(self.scored, 0), self.group)


def _total(of_positions: Tensor, group: Tensor) -> Tensor:
    """Return ``[B, T]``: for each position the sum over its group."""
    sums = of_positions.new_zeros(len(group)).index_add(0, group, of_positions.flatten())
    return sums[group].view_as(of_positions)


def batch_chunks(rows: int, numbers_in_a_row: int, device: torch.device | None = None) -> Iterator[slice]:
    """Yield the rows of a batch, a few at a time.

    Args:
        rows: how many there are.
        numbers_in_a_row: how many numbers belong to each.
        device: where they are; None: on the CPU.
    """
    numbers = CHUNK if device is None or device.type == "cpu" else CHUNK_ELSEWHERE
    step = max(1, numbers // max(1, numbers_in_a_row))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def recomputed(function: Callable[[slice], Tensor], rows: slice) -> Tensor:
    """Return what a function makes of some rows, and make it once more when its gradient is due, rather than keep it.

    `torch.func` has no such thing, so there all is kept.

    Args:
        function: makes a tensor of rows of the batch.
        rows: the rows.
    """
    if torch._C._are_functorch_transforms_active():
        return function(rows)
    found: Tensor = checkpoint(function, rows, use_reentrant=False)
    return found


@dataclass(frozen=True, eq=False, kw_only=True)
class AttentionAlignment(Alignment):
    """Two row-stochastic matrices: where each side's positions look on the other side.

    Args:
        student_to_teacher: ``[B, Ts, Tt]``: weights of the teacher's positions for each student position; rows of
            uncovered positions are zero.
        teacher_to_student: ``[B, Tt, Ts]``: the weights of the student's positions for each of the teacher's.
    """

    student_to_teacher: Tensor
    teacher_to_student: Tensor

    def to_student(self, teacher_side: Tensor) -> Tensor:
        """Return ``[B, Ts, d]``: the weighted mean of the teacher's positions."""
        return self.student_to_teacher.to(teacher_side.dtype) @ teacher_side

    def to_teacher(self, student_side: Tensor) -> Tensor:
        """Return ``[B, Tt, d]``: the weighted mean of the student's positions."""
        return self.teacher_to_student.to(student_side.dtype) @ student_side

    def teacher_index(self) -> Tensor:
        """Return ``[B, Ts]``: the teacher position with the greatest weight."""
        return self.student_to_teacher.argmax(-1).where(self.student_covered, -1)


class CrossModelAttentionModule(AlignerModule):
    """Holds the query projection ``query.weight`` ``[2 dt, 2 ds]`` and ``query.bias``.

    A variant overrides `queries`, `keys`, `values`, `scores` or `allowed`; the rest uses what it gives.

    Args:
        student_embedding_size: width ds of the student's input embedding.
        teacher_embedding_size: width dt of the teacher's.
        std: over what the teacher's standard deviations are taken.

    Examples:
        >>> class StatesAlone(CrossModelAttentionModule):
        ...     def values(self, teacher):
        ...         return self.states_over_std(teacher)
    """

    def __init__(self, student_embedding_size: int, teacher_embedding_size: int, std: Scope) -> None:
        super().__init__()
        self.query = nn.Linear(2 * student_embedding_size, 2 * teacher_embedding_size)
        self.std: Scope = std

    def forward(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:
        """Align one batch (arXiv 2406.17328, equations 7 to 10)."""
        self._check_widths(student, teacher)
        sides: tuple[tuple[Side, LMStates], ...] = (("student", student), ("teacher", teacher))
        checks = [
            states.embedding_check(ids, side)
            for side, states in sides
            for ids in (states.input_ids, states.targets)
            if ids is not None
        ]
        rows = PackedRows.of(student, teacher, together=self.std == "batch")
        if rows is None:
            return replace(self._aligned(student, teacher, given), checks=checks)
        parts = [
            self._aligned(bucket.student.states(student), bucket.teacher.states(teacher), rows.groups(bucket, given))
            for bucket in rows.buckets
        ]
        return PackedAlignment.of(rows, student, teacher, parts, checks=checks)

    def _aligned(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> AttentionAlignment:
        scores = self.scores(student, teacher)
        allowed = self.allowed(student, teacher)
        student_to_teacher = _attention(scores, allowed)
        return AttentionAlignment(
            student_to_teacher=student_to_teacher,
            teacher_to_student=_attention(scores.transpose(1, 2), allowed.transpose(1, 2)),
            student_covered=allowed.any(2),
            teacher_covered=allowed.any(1),
            student_values=student.hidden_states,
            teacher_values=self.values(teacher),
            metrics=_metrics(student_to_teacher.detach(), allowed, given),
        )

    def _check_widths(self, student: LMStates, teacher: LMStates) -> None:
        expected_student, expected_teacher = self.query.in_features // 2, self.query.out_features // 2
        for side, states, expected in (
            ("student", student, expected_student),
            ("teacher", teacher, expected_teacher),
        ):
            if states.input_ids is None:
                raise InputError(f"{side}.input_ids are missing: cross-model attention reads them.")
            if states.embedding is not None and states.embedding.shape[1] != expected:
                raise InputError(
                    f"{side}.embedding: expected width {expected}, got {states.embedding.shape[1]}. Build "
                    f"DSKDLoss with {side}_embedding_size={states.embedding.shape[1]}."
                )

    def queries(self, student: LMStates) -> Tensor:
        """Return ``[b, Ts, k]``: what each student position asks with; as published, k is 2 dt.

        Args:
            student: the student's states of some rows of the batch.
        """
        pairs = _token_pairs(student)(slice(None))
        return F.linear(pairs, self.query.weight.to(pairs.dtype), self.query.bias.to(pairs.dtype))

    def keys(self, teacher: LMStates) -> Callable[[slice], Tensor]:
        """Return what gives ``[b, Tt, k]`` for some rows of the batch: each teacher position's answer, a constant.

        The whole batch's keys are wide; their standard deviations, which may run over the whole batch, are not.

        Args:
            teacher: the teacher's states.
        """
        pairs = _token_pairs(teacher)
        std = ScoredGroups.of_states(teacher, self.std).std(pairs, self.query.out_features)[..., None]
        return lambda rows: pairs(rows).div_(std[rows])

    def scores(self, student: LMStates, teacher: LMStates) -> Tensor:
        """Return ``[B, Ts, Tt]``: how well queries and keys go together, before the softmax over each side.

        Queries and keys are wide. So they are made for a few samples at a time, and once more when their gradient is
        due.

        Args:
            student: the student's states.
            teacher: the teacher's states.
        """
        keys = self.keys(teacher)

        def of_some(rows: slice) -> Tensor:
            key = keys(rows)
            query = self.queries(student.rows(rows))
            return query @ key.to(query.dtype).transpose(1, 2) / math.sqrt(key.shape[-1])

        longest = max(student.targets.shape[1], teacher.targets.shape[1])
        chunks = batch_chunks(len(student.targets), longest * self.query.out_features, student.targets.device)
        return torch.cat([recomputed(of_some, rows) for rows in chunks])

    def allowed(self, student: LMStates, teacher: LMStates) -> Tensor:
        """Return ``[B, Ts, Tt]``, bool: which positions may look at one another, scored ones of one sample.

        A variant allows some of these: `super().allowed(student, teacher) & ...`. A position that may look at nothing
        is not covered.

        Args:
            student: the student's states.
            teacher: the teacher's states.
        """
        same = student.samples[:, :, None] == teacher.samples[:, None, :]
        return same & student.scored[:, :, None] & teacher.scored[:, None, :]

    def values(self, teacher: LMStates) -> Tensor:
        """Return ``[B, Tt, dt]``: what the t2s projector reads, states and embeddings of the targets over their std.

        Args:
            teacher: the teacher's states.

        Raises:
            InputError: the teacher's embedding has another width than its states.
        """
        width = teacher.hidden_states.shape[-1]
        if teacher.embedding is not None and teacher.embedding.shape[1] != width:
            raise InputError(
                f"teacher.embedding has width {teacher.embedding.shape[1]}, teacher.hidden_states {width}: "
                "cross-model attention adds the two. Use another aligner for this teacher."
            )
        targets = teacher.embeddings_of(teacher.targets)
        std = ScoredGroups.of_states(teacher, self.std).std(targets, width)[..., None]
        values = self.states_over_std(teacher)
        for rows in _chunks_of(teacher):
            values[rows] += targets(rows).div_(std[rows])
        return values

    def states_over_std(self, teacher: LMStates) -> Tensor:
        """Return ``[B, Tt, dt]``: hidden states over their standard deviation, 0 where nothing is scored; a new tensor.

        Args:
            teacher: the teacher's states.
        """
        states = _scored_states(teacher)
        std = ScoredGroups.of_states(teacher, self.std).std(states, teacher.hidden_states.shape[-1])[..., None]
        values = torch.empty_like(teacher.hidden_states)
        for rows in _chunks_of(teacher):
            torch.div(states(rows), std[rows], out=values[rows])
        return values


class AttentionAligner(Aligner):
    """Base of `CrossModelAttention` and its variants, which name themselves and the module that does the work.

    Examples:
        >>> class Unscaled(AttentionAligner):
        ...     name: Literal["unscaled"] = "unscaled"
        >>> Unscaled(std="batch").build(student_embedding_size=2, teacher_embedding_size=3).query
        Linear(in_features=4, out_features=6, bias=True)
    """

    module_class: ClassVar[type[CrossModelAttentionModule]] = CrossModelAttentionModule
    """What `build` makes, with the widths of both embeddings and `std`."""

    std: Scope = "sample"
    """Over which scored positions the teacher's standard deviations run: those of the position's own sample, so that a
    batch and its micro-batches have the same gradient, or those of the whole batch, as published."""

    @property
    def split_invariant(self) -> bool:
        """Whether the standard deviations run over single samples."""
        return self.std == "sample"

    def build(
        self,
        *,
        student_embedding_size: int,
        teacher_embedding_size: int,
        heads: ProjectorHeads | None = None,  # noqa: ARG002
    ) -> AlignerModule:
        """Return the attention with its query projection, randomly initialised."""
        return self.module_class(student_embedding_size, teacher_embedding_size, self.std)


class CrossModelAttention(AttentionAligner):
    """Soft alignment by attention between the two models' tokens.

    Each student position asks with the embeddings of the token it has read and the token it should predict; each
    teacher position answers with its own. The teacher's side is divided by its standard deviation.
    """

    source: ClassVar[str] = "Zhang et al. 2024 (DSKD), arXiv 2406.17328, section 3.2"

    name: Literal["cma"] = "cma"


def _token_pairs(states: LMStates) -> Callable[[slice], Tensor]:
    """Return what gives ``[b, T, 2 width]`` for some rows: embeddings of the token read and the token to predict."""
    assert states.input_ids is not None
    read, predicted = states.embeddings_of(states.input_ids), states.embeddings_of(states.targets)
    return lambda rows: torch.cat([read(rows), predicted(rows)], -1)


def _scored_states(states: LMStates) -> Callable[[slice], Tensor]:
    """Return what gives some rows of the hidden states, with zeros at unscored positions: there may be NaN."""
    unscored = ~states.scored[..., None]
    return lambda rows: states.hidden_states[rows].masked_fill(unscored[rows], 0.0)


def _chunks_of(teacher: LMStates) -> Iterator[slice]:
    rows, length, width = teacher.hidden_states.shape
    return batch_chunks(rows, length * width, teacher.hidden_states.device)


def _attention(scores: Tensor, allowed: Tensor) -> Tensor:
    """Softmax over the allowed entries of each row; a row without any is zero and has no gradient."""
    reachable = allowed.any(-1, keepdim=True)
    masked = scores.masked_fill(~allowed & reachable, -math.inf)
    return masked.softmax(-1) * reachable


def _metrics(weights: Tensor, allowed: Tensor, given: TokenGroups | None) -> dict[str, Tally]:
    covered = allowed.any(2)
    entropies = torch.special.entr(weights).sum(-1)
    metrics = {"attention_entropy": Tally(entropies.where(covered, 0.0).sum(), covered.sum())}
    if given is not None:
        known = covered & (given.student >= 0)
        hits = (given.teacher.gather(1, weights.argmax(-1)) == given.student) & known
        metrics["alignment_accuracy"] = Tally(hits.sum(), known.sum())
    return metrics
