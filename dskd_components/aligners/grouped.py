"""Aligners whose groups are found beforehand from the texts: exact match, spans, minimum edits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from dskd_components.components.aligner import Aligner, AlignerModule, TextMethod
from dskd_components.components.alignment import Alignment
from dskd_components.components.terms import Tally
from dskd_components.errors import InputError

if TYPE_CHECKING:
    from dskd_components.models.states import LMStates
    from dskd_components.models.token_groups import TokenGroups


Pooling = Literal["mean", "last"]
"""What stands for several positions: their mean, or the last of them."""


@dataclass(frozen=True, eq=False, kw_only=True)
class GroupedAlignment(Alignment):
    """Each side's positions in a group receive what the other side's positions in it amount to.

    Args:
        student_group: ``[B, Ts]``, int64: a number from 0 to groups - 1 where ``student_covered``, else -1.
        teacher_group: ``[B, Tt]``, int64: the group of each teacher position, -1 for none.
        groups: how many groups there are in the batch.
        pooling: what stands for several positions.
    """

    student_group: Tensor
    teacher_group: Tensor
    groups: int
    pooling: Pooling

    def to_student(self, teacher_side: Tensor) -> Tensor:
        """Return ``[B, Ts, d]``: what the teacher's positions of the same group amount to, 0 without a group."""
        return _scatter(self._pool(teacher_side, self.teacher_group), self.student_group)

    def to_teacher(self, student_side: Tensor) -> Tensor:
        """Return ``[B, Tt, d]``: what the student's positions of the same group amount to, 0 without a group."""
        return _scatter(self._pool(student_side, self.student_group), self.teacher_group)

    def teacher_index(self) -> Tensor:
        """Return ``[B, Ts]``: the first teacher position of the group, where both sides have read the same text."""
        first = _first_positions(self.teacher_group, self.groups)
        return _scatter(first[:, None], self.student_group).squeeze(-1).where(self.student_covered, -1)

    def _pool(self, values: Tensor, group: Tensor) -> Tensor:
        """Return ``[groups, d]``."""
        member = group >= 0
        rows, group_of_row = values[member], group[member]
        if self.pooling == "last":
            last = torch.zeros(self.groups, dtype=torch.int64, device=values.device)
            last = last.scatter_reduce(0, group_of_row, torch.arange(len(rows), device=values.device), "amax")
            return rows[last]
        sums = rows.new_zeros(self.groups, rows.shape[-1]).index_add(0, group_of_row, rows)
        return sums / torch.bincount(group_of_row, minlength=self.groups)[:, None]


class GroupedModule(AlignerModule):
    """Turns groups of positions into an alignment.

    Args:
        name: the aligner's name, for messages.
        one_to_one: whether only groups of one position on each side count.
        pooling: what stands for several positions.
    """

    def __init__(self, name: str, *, one_to_one: bool, pooling: Pooling) -> None:
        super().__init__()
        self.name = name
        self.one_to_one = one_to_one
        self.pooling: Pooling = pooling

    def forward(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:
        """Align one batch."""
        if given is None:
            raise InputError(
                f"alignment is missing: the aligner {self.name!r} reads it from the texts' tokens. Collate with "
                "loss_fn.collator(student_tokenizer, teacher_tokenizer), or pass alignment=... to the loss."
            )
        student_group, teacher_group, groups = self._numbered(*_keys(given, student, teacher))
        student_covered, teacher_covered = student_group >= 0, teacher_group >= 0
        return GroupedAlignment(
            student_group=student_group,
            teacher_group=teacher_group,
            groups=groups,
            pooling=self.pooling,
            student_covered=student_covered,
            teacher_covered=teacher_covered,
            student_values=student.hidden_states,
            teacher_values=teacher.hidden_states,
            metrics={
                "student_coverage": Tally(student_covered.sum(), student.scored.sum()),
                "teacher_coverage": Tally(teacher_covered.sum(), teacher.scored.sum()),
            },
        )

    def _numbered(self, student_keys: Tensor, teacher_keys: Tensor) -> tuple[Tensor, Tensor, int]:
        """Number the groups that have members on both sides from 0 on; all other positions get -1."""
        keys = torch.unique(torch.cat([student_keys.flatten(), teacher_keys.flatten()]))
        keys = keys[keys >= 0]
        sizes = torch.stack([_members(keys, side) for side in (student_keys, teacher_keys)])
        keys = keys[((sizes == 1) if self.one_to_one else (sizes > 0)).all(0)]
        return _rank(keys, student_keys), _rank(keys, teacher_keys), len(keys)

    def extra_repr(self) -> str:
        """Return the options, for printing."""
        return f"{self.name}, pooling={self.pooling}"


def _keys(given: TokenGroups, student: LMStates, teacher: LMStates) -> tuple[Tensor, Tensor]:
    """Return ``[B, Ts]`` and ``[B, Tt]``: a number that one group of one sample has; -1 outside or unscored."""
    sides = ((given.student, student), (given.teacher, teacher))
    # Samples are numbered afresh, so that sample and group fit into one integer whatever numbers came in.
    samples = torch.unique(torch.cat([states.samples.flatten() for _, states in sides]))
    keys = [
        (torch.searchsorted(samples, states.samples) * 2**32 + groups).where((groups >= 0) & states.scored, -1)
        for groups, states in sides
    ]
    return keys[0], keys[1]


def _members(keys: Tensor, side: Tensor) -> Tensor:
    """Return how many positions of a side are in each group."""
    rank = _rank(keys, side)
    return torch.bincount(rank[rank >= 0], minlength=len(keys))


def _rank(keys: Tensor, side: Tensor) -> Tensor:
    """Return the place of each position's key among the sorted keys, -1 if it is not there."""
    if len(keys) == 0:
        return torch.full_like(side, -1)
    rank = torch.searchsorted(keys, side).clamp_max(len(keys) - 1)
    return rank.where(keys[rank] == side, -1)


def _first_positions(group: Tensor, groups: int) -> Tensor:
    """Return ``[groups]``: the first position of each group in its row."""
    positions = torch.arange(group.shape[1], device=group.device).expand_as(group)
    member = group >= 0
    far = torch.full((groups,), group.shape[1], dtype=torch.int64, device=group.device)
    return far.scatter_reduce(0, group[member], positions[member], "amin")


def _scatter(pooled: Tensor, group: Tensor) -> Tensor:
    """Return ``[B, T, d]``: each position's group's row, 0 where it has no group."""
    scattered = pooled.new_zeros(*group.shape, pooled.shape[-1])
    member = group >= 0
    scattered[member] = pooled[group[member]]
    return scattered


class ExactMatch(Aligner):
    """One-to-one pairs of tokens that stand for the same bytes of the text; all other tokens are left out.

    Both models have then read the same text and are asked for the same next piece of it.
    """

    source: ClassVar[str] = "Zhang et al. 2025 (DSKD v2), arXiv 2504.11426, exact token alignment"
    reads_embeddings: ClassVar[bool] = False
    text_method: ClassVar[TextMethod | None] = "exact_match"

    name: Literal["exact_match"] = "exact_match"

    def build(self, *, student_embedding_size: int, teacher_embedding_size: int) -> AlignerModule:  # noqa: ARG002
        """Return the module that applies given groups; it has no parameters."""
        return GroupedModule(self.name, one_to_one=True, pooling="mean")


class Span(Aligner):
    """Groups of several tokens to several, closed at each border that both sides share.

    Every scored token that stands for text takes part. What stands for several tokens of the other side is their mean
    or the last of them.
    """

    source: ClassVar[str] = "dskd_components, docs/explanation/alignment.md"
    reads_embeddings: ClassVar[bool] = False
    text_method: ClassVar[TextMethod | None] = "span"

    name: Literal["span"] = "span"
    pooling: Pooling = "mean"
    """What stands for several tokens of the other side."""

    def build(self, *, student_embedding_size: int, teacher_embedding_size: int) -> AlignerModule:  # noqa: ARG002
        """Return the module that applies given groups; it has no parameters."""
        return GroupedModule(self.name, one_to_one=False, pooling=self.pooling)


class MinEdit(Aligner):
    """Tokens that the cheapest warping path joins; it needs no knowledge of the text, and may be wrong.

    As released, only one-to-one joints count. Pooled, all tokens that the path joins, directly or through others, form
    one group.
    """

    source: ClassVar[str] = "Wan et al. 2024 (FuseLLM), arXiv 2401.10491, and the code of arXiv 2406.17328"
    reads_embeddings: ClassVar[bool] = False
    text_method: ClassVar[TextMethod | None] = "min_edit"

    name: Literal["min_edit"] = "min_edit"
    many_to_one: Literal["drop", "pool"] = "drop"
    """What becomes of tokens that the path joins with several: left out, as released, or pooled."""
    pooling: Pooling = "mean"
    """With ``pool``: what stands for several tokens of the other side."""

    def build(self, *, student_embedding_size: int, teacher_embedding_size: int) -> AlignerModule:  # noqa: ARG002
        """Return the module that applies given groups; it has no parameters."""
        return GroupedModule(self.name, one_to_one=self.many_to_one == "drop", pooling=self.pooling)
