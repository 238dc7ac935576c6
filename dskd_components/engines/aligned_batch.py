"""`AlignedBatch`: one batch, aligned, with the hidden states of either model brought to where the other's are."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dskd_components.components.column_reader import columns_read_by
from dskd_components.components.group_space import GroupSpace
from dskd_components.components.projector import Affine
from dskd_components.components.returned import Names, broken_promise, require_tensor
from dskd_components.engines.group_sums import numbered_groups, require_groups
from dskd_components.models.batch import naming_teacher
from dskd_components.models.host_reads import Check, MaskedPositions, masked_positions
from dskd_components.models.states import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dskd_components.components.alignment import Alignment
    from dskd_components.components.projector import Projection, ProjectorHeads
    from dskd_components.components.space import Direction, Measure, SharedTokens, Space
    from dskd_components.components.space_modules import SpaceModules
    from dskd_components.engines.reduction import LossWeights
    from dskd_components.engines.vocabulary_overlap import VocabularyOverlap
    from dskd_components.models.head import Head
    from dskd_components.models.states import LMStates, Side


class ProjectedStates(NamedTuple):
    """The other model's states at the covered positions of a side, and the head that reads them.

    Args:
        states: ``[N, d]``, part of the graph.
        head: the head; detached where it reads projected states.
    """

    states: Tensor
    head: Head


class AffineInput(NamedTuple):
    """The other model's states before an affine projection.

    Args:
        states: ``[N, d]``, aligned.
        weights: ``[N, 1]``: the sum of the alignment's weights, by which a bias is multiplied.
        affine: the projection.
    """

    states: Tensor
    weights: Tensor
    affine: Affine

    @property
    def made_bytes(self) -> int:
        """Memory of a projection's matrix that was made for this batch, rather than being a parameter."""
        matrix = self.affine.weight
        return 0 if isinstance(matrix, nn.Parameter) else matrix.nbytes


class BatchPositions(NamedTuple):
    """What the host knows of the values in one batch.

    Args:
        scored: by side, the scored positions.
        covered: by side, the scored positions that something on the other side belongs to.
        argmax: the teacher positions whose prediction `AlignedBatch.teacher_argmax` looks at; empty if no space asks.
        all_finite: by side, whether the bias of the head leaves every token possible: no logit can be ``-inf``.
        groups: how many groups have covered positions on both sides; 0 if no space asks.
    """

    scored: Mapping[Side, MaskedPositions]
    covered: Mapping[Side, MaskedPositions]
    argmax: MaskedPositions
    all_finite: Mapping[Side, bool]
    groups: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class AlignedBatch:
    """Both models' states of one batch, their alignment, and the projections between them.

    It has no logits: these are the engine's matter.

    Args:
        spaces: where distributions are compared.
        measure: how they are compared.
        weights: what the terms are multiplied with in the loss.
        student: the student's states.
        teacher: the teacher's states, detached.
        alignment: which positions belong together.
        projections: by direction, ``"t2s"`` and ``"s2t"``.
        heads: by direction, the heads at both ends of a projection.
        teacher_to_student_ids: ``[Vt]``, the student's id of each teacher token or -1; None: one vocabulary.
        overlap: what the vocabularies of the two heads have in common.
        modules: by name of a space, what was built for it; others have nothing.
        teacher_name: which of several teachers it is, for messages.
        names: whose the terms and metrics are.
        checks: what must hold for the values in all of this; nothing may be made of them before `positions` are read.
    """

    spaces: tuple[Space, ...]
    measure: Measure
    weights: LossWeights
    student: LMStates
    teacher: LMStates
    alignment: Alignment
    projections: Mapping[str, Projection]
    heads: Mapping[Direction, ProjectorHeads]
    teacher_to_student_ids: Tensor | None
    overlap: VocabularyOverlap
    modules: Mapping[str, SpaceModules] = field(default_factory=dict)
    teacher_name: str | None = None
    names: Names = field(default_factory=Names)
    checks: Sequence[Check] = ()

    @cached_property
    def positions(self) -> BatchPositions:
        """What the host knows of the values, once all checks are read; `read_together` has it for several batches.

        Raises:
            InputError: a check has failed.
        """
        read_together([self])
        found: BatchPositions = vars(self)["positions"]
        return found

    def side(self, side: Side) -> LMStates:
        """Return the states of one model."""
        return self.student if side == "student" else self.teacher

    def source(self, space: Space) -> LMStates:
        """Return the states of the model whose states come to a space."""
        return self.teacher if space.side == "student" else self.student

    def columns_for(self, space: Space, side: Side) -> dict[str, Tensor]:
        """Return the columns that a space reads of a side, ``[B, T, ...]``."""
        columns = self.side(side).columns
        return {name: columns[name] for name in columns_read_by(space, side)}

    def learning(self) -> Iterator[Tensor]:
        """Yield what a term may give gradients to; of a head that is cut over ranks, this rank's tokens."""
        head = self.student.head.local
        yield from (tensor for tensor in (self.student.hidden_states, head.weight, head.bias) if tensor is not None)
        for module in (*self.projections.values(), *self.modules.values()):
            yield from module.parameters()

    def covered(self, side: Side) -> Tensor:
        """Return ``[B, T]``, bool: the scored positions of a side that something on the other side belongs to."""
        return self.alignment.student_covered if side == "student" else self.alignment.teacher_covered

    @property
    def shared_tokens(self) -> SharedTokens | None:
        """The tokens that both heads read, one to one; None if no space asks for them."""
        asked = any(space.needs_shared_tokens for space in self.spaces)
        return self.overlap.shared_tokens if asked else None

    @property
    def teacher_to_student(self) -> Tensor | None:
        """``[Vt]``, int64: the student's token for each of the teacher's or -1; None if no space asks for it."""
        asked = any(space.needs_vocabulary_map for space in self.spaces)
        return self.overlap.teacher_to_student if asked else None

    @property
    def common_ids(self) -> Tensor | None:
        """``[K]``, int64: the ids that both vocabularies have, where each is one but for tokens that only one side has.

        Spaces of one vocabulary compare these alone. None: the vocabularies are the same, or two.
        """
        asked = any(space.one_vocabulary for space in self.spaces)
        return self.overlap.common_ids if asked else None

    @property
    def group_numbers(self) -> Mapping[Side, Tensor]:
        """By side ``[B, T]``, int64: the group of each covered position, numbered from 0 on; -1 for none."""
        return self._groups[0]

    @cached_property
    def _groups(self) -> tuple[dict[Side, Tensor], Tensor]:
        [space, *_] = (space for space in self.spaces if isinstance(space, GroupSpace))
        covered: dict[Side, Tensor] = {"student": self.covered("student"), "teacher": self.covered("teacher")}
        with naming_teacher(self.teacher_name):
            return numbered_groups(require_groups(self.alignment, space), covered)

    @property
    def first_of_groups(self) -> Tensor | None:
        """``[B, Ts]``, bool: true at one position of each group; None if no space asks for groups."""
        asked = any(isinstance(space, GroupSpace) for space in self.spaces)
        return self._groups[1] if asked else None

    def projected(self, space: Space, *, recompute: bool = False, positions: Tensor | None = None) -> ProjectedStates:
        """Return the other model's states, projected and aligned, and the head that reads them.

        A projected state is read by the head of the space that it has come to. The student's head is a constant for
        it: what it learns, it learns from the student's own states.

        Args:
            space: where they come to.
            recompute: keep nothing of what lies between, and compute it again for the gradient, if `repeats`.
            positions: ``[N]``, int64: the covered positions among all ``B * T`` of the space's side, in the order that
                is wanted. None: their own.
        """
        if recompute and self.repeats(space):
            states = checkpoint(self._projected_states, space, positions, use_reentrant=False)
        else:
            states = self._projected_states(space, positions)
        if space.projector is None:
            return ProjectedStates(states, self.source(space).head)
        return ProjectedStates(states, self.heads[space.projector].target.detach())

    def _projected_states(self, space: Space, positions: Tensor | None) -> Tensor:
        rows = self._source_rows(space)
        if space.projector is not None:
            projection, heads = self.projections[space.projector], self.heads[space.projector]
            found: object = projection(rows, heads)
            rows = require_tensor(
                projection, "forward(...) to return", found, (len(rows), heads.target.hidden_size), rows
            )
        return self._aligned(rows, space, positions)

    def stored_as(self, space: Space) -> torch.dtype | None:
        """Return a type in half precision that holds the states exactly which come to a space, if there is one.

        There is if they are hidden states as a model has given them: neither projected nor mixed by the alignment.

        Args:
            space: where they come to.
        """
        moved = space.projector is None and self.alignment.moves_states
        return self.source(space).widened_from if moved else None

    def repeats(self, space: Space) -> bool:
        """Return whether the states that come to a space may be computed twice, or without calling the projection."""
        return space.projector is None or self.projections[space.projector].is_as_written()

    def affine_input(self, space: Space, *, positions: Tensor | None = None) -> AffineInput | None:
        """Return what `projected` would project, aligned, if the projection is affine; None if it may not be.

        Alignment and projection can change places then, but for the bias, which comes with each row's weight.

        Args:
            space: where they come to.
            positions: as in `projected`.
        """
        if space.projector is None or not self.repeats(space):
            return None
        projection, heads = self.projections[space.projector], self.heads[space.projector]
        affine = projection.affine(heads)
        if affine is None:
            return None
        rows = self._source_rows(space)
        _require_affine(projection, affine, heads, rows)
        weights = self._aligned(rows.new_ones(len(rows), 1), space, positions)
        return AffineInput(self._aligned(rows, space, positions), weights, affine)

    def teacher_argmax(self, predicted: Tensor) -> Tensor:
        """Return ``[B, Ts]``: the teacher's most likely token for each covered student position.

        Args:
            predicted: ``[B, Tt]``, int64: the teacher's most likely token at `argmax_positions`, -1 elsewhere.

        Returns:
            Student ids, -100 where the student has no such token.
        """
        mapping = self.teacher_to_student_ids
        ids = predicted if mapping is None else mapping[predicted.clamp_min(0)]
        known = (predicted >= 0) & (ids >= 0) & (ids < self.student.head.vocabulary_size)
        ids = ids.where(known, IGNORE_INDEX)
        return ids.gather(1, self._teacher_positions.clamp_min(0)).where(self.covered("student"), IGNORE_INDEX)

    @cached_property
    def argmax_positions(self) -> Tensor:
        """``[B, Tt]``, bool: the teacher positions whose prediction `teacher_argmax` looks at."""
        reached = self._teacher_positions
        times = torch.zeros_like(self.teacher.targets).scatter_add(1, reached.clamp_min(0), (reached >= 0).long())
        return (times > 0) & self.teacher.scored

    @cached_property
    def _teacher_positions(self) -> Tensor:
        found: object = self.alignment.teacher_index()
        targets = self.student.targets
        index = require_tensor(
            self.alignment, "teacher_index() to return", found, targets.shape, targets, dtype=torch.int64
        )
        return index.where(self.covered("student"), -1)

    def _source_rows(self, space: Space) -> Tensor:
        """Return ``[M, d]``: what comes to a space from the other model's scored positions, before projection.

        Only scored rows are touched: the others may hold NaN, which a weight of zero would not stop.
        """
        values = self.source(space).hidden_states
        if space.projector is not None:
            alignment = self.alignment
            values = alignment.teacher_values if space.side == "student" else alignment.student_values
        return self._scored_at_source(space).rows_of(values)

    def _aligned(self, rows: Tensor, space: Space, positions: Tensor | None) -> Tensor:
        """Bring rows of the source's scored positions to the covered positions of a space's side."""
        bring = self.alignment.to_student if space.side == "student" else self.alignment.to_teacher
        source = self.source(space).targets
        placed = self._scored_at_source(space).placed(rows).reshape(*source.shape, -1)
        found: object = bring(placed)
        expected = (*self.side(space.side).targets.shape, placed.shape[-1])
        brought = require_tensor(self.alignment, f"to_{space.side}(...) to return", found, expected, placed)
        if positions is None:
            return self.positions.covered[space.side].rows_of(brought)
        return brought.flatten(0, 1).index_select(0, positions)

    def _scored_at_source(self, space: Space) -> MaskedPositions:
        return self.positions.scored["teacher" if space.side == "student" else "student"]


def _require_affine(projection: Projection, found: object, heads: ProjectorHeads, like: Tensor) -> None:
    """Refuse what a projection says it is if the engine cannot multiply by it.

    Raises:
        PluginError: it is no affine map between the widths of the heads.
    """
    if not isinstance(found, Affine):
        raise broken_promise(projection, "affine(...) to return an Affine or None", found)
    shape = (heads.target.hidden_size, heads.source.hidden_size)
    for part, tensor, sizes in (("weight", found.weight, shape), ("bias", found.bias, shape[:1])):
        if part == "weight" or tensor is not None:
            dtype = tensor.dtype if isinstance(tensor, Tensor) and tensor.is_floating_point() else torch.float32
            require_tensor(projection, f"affine(...).{part} to be", tensor, sizes, like, dtype=dtype)


def read_together(batches: Sequence[AlignedBatch]) -> None:
    """Read the checks and positions of several batches in one copy; each has its `AlignedBatch.positions` then.

    Args:
        batches: of one device.

    Raises:
        InputError: a check has failed; the first one says why.
    """
    masks = [mask for batch in batches for mask in _masks(batch)]
    checks = [Check(check.failed, partial(_explain, batch, check)) for batch in batches for check in batch.checks]
    found = iter(masked_positions(masks, checks))
    for batch in batches:
        student, teacher, student_covered, teacher_covered, argmax, ruled_out = (next(found) for _ in range(6))
        groups = 0 if batch.first_of_groups is None else len(next(found).indices)
        of_student, of_teacher = ruled_out.mask.tolist()
        vars(batch)["positions"] = BatchPositions(  # where a cached property keeps what it has
            scored={"student": student, "teacher": teacher},
            covered={"student": student_covered, "teacher": teacher_covered},
            argmax=argmax,
            all_finite={"student": not of_student, "teacher": not of_teacher},
            groups=groups,
        )


def _masks(batch: AlignedBatch) -> list[Tensor]:
    nothing = torch.zeros_like(batch.teacher.scored)
    asked = any(space.needs_teacher_argmax for space in batch.spaces)
    first_of_groups = batch.first_of_groups
    return [
        batch.student.scored,
        batch.teacher.scored,
        batch.covered("student"),
        batch.covered("teacher"),
        batch.argmax_positions if asked else nothing,
        torch.stack([_rules_out_a_token(states.head) for states in (batch.student, batch.teacher)]),
        *([] if first_of_groups is None else [first_of_groups]),
    ]


def _explain(batch: AlignedBatch, check: Check) -> None:
    with naming_teacher(batch.teacher_name):
        check.explain()


def _rules_out_a_token(head: Head) -> Tensor:
    bias = head.local.bias  # a rank need not know of the others' tokens
    if bias is None:
        return torch.zeros((), dtype=torch.bool, device=head.device)
    ruled_out = bias.detach().isinf().any()
    others = head.others.bias if head.has_rest else None
    return ruled_out if others is None else ruled_out | others.detach().isinf().all()
