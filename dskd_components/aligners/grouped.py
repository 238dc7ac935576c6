"""Aligners that read texts, whose groups are found beforehand: exact match, spans, minimum edits, and their base."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from dskd_components.components.aligner import Aligner, AlignerModule
from dskd_components.components.alignment import Alignment
from dskd_components.components.terms import Tally
from dskd_components.errors import InputError
from dskd_components.models.states import small_numbers
from dskd_components.tokenization.min_edit import warped_groups
from dskd_components.tokenization.span_groups import exact_match_pairs, single_groups, span_groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dskd_components.components.projector import ProjectorHeads
    from dskd_components.models.states import LMStates
    from dskd_components.models.token_groups import TokenGroups
    from dskd_components.tokenization.arrays import IntArray
    from dskd_components.tokenization.byte_spans import TokenizedText


Pooling = Literal["mean", "last"]
"""What stands for several positions: their mean, or the last of them."""


@dataclass(frozen=True, eq=False, kw_only=True)
class GroupedAlignment(Alignment):
    """Each side's positions in a group receive what the other side's positions in it amount to.

    Args:
        student_group: ``[B, Ts]``, int64: a number below `groups` where ``student_covered``, else -1.
        teacher_group: ``[B, Tt]``, int64: the group of each teacher position, -1 for none.
        groups: a number that none of the groups reaches; how many there are is not looked up.
        pooling: what stands for several positions.
    """

    student_group: Tensor
    teacher_group: Tensor
    groups: int
    pooling: Pooling

    def to_student(self, teacher_side: Tensor) -> Tensor:
        """Return ``[B, Ts, d]``: what the teacher's positions of the same group amount to, 0 without a group."""
        return self._scatter(self._pool(teacher_side, self.teacher_group), self.student_group)

    def to_teacher(self, student_side: Tensor) -> Tensor:
        """Return ``[B, Tt, d]``: what the student's positions of the same group amount to, 0 without a group."""
        return self._scatter(self._pool(student_side, self.student_group), self.teacher_group)

    def teacher_index(self) -> Tensor:
        """Return ``[B, Ts]``: the first teacher position of the group, where both sides have read the same text."""
        positions = torch.arange(self.teacher_group.shape[1], device=self.teacher_group.device)
        positions = positions.expand_as(self.teacher_group).where(self.teacher_group >= 0, len(positions))
        first = positions.new_full((self.groups,), positions.shape[1])
        first = first.scatter_reduce(0, self._slots(self.teacher_group), positions.flatten(), "amin")
        return first[self.student_group.clamp_min(0)].where(self.student_covered, -1)

    def groups_of_positions(self) -> tuple[Tensor, Tensor]:
        """Return the groups of both sides."""
        return self.student_group, self.teacher_group

    def _pool(self, values: Tensor, group: Tensor) -> Tensor:
        """Return ``[groups, d]``; rows of numbers that no group has say nothing."""
        member = (group >= 0).flatten()
        slots = self._slots(group)
        if self.pooling == "last":
            row = torch.arange(len(slots), device=slots.device).where(member, 0)
            last = row.new_zeros(self.groups).scatter_reduce(0, slots, row, "amax")
            return values.flatten(0, 1).index_select(0, last)
        # What is in no group adds zero, whatever stands there.
        rows = values.flatten(0, 1).masked_fill(~member[:, None], 0.0)
        sums = rows.new_zeros(self.groups, rows.shape[-1]).index_add(0, slots, rows)
        sizes = slots.new_zeros(self.groups).scatter_add(0, slots, member.long())
        return sums / sizes.clamp_min(1)[:, None]

    def _scatter(self, pooled: Tensor, group: Tensor) -> Tensor:
        """Return ``[B, T, d]``: each position's group's row, 0 where it has no group."""
        rows = pooled.index_select(0, self._slots(group)).masked_fill(~(group >= 0).flatten()[:, None], 0.0)
        return rows.view(*group.shape, -1)

    def _slots(self, group: Tensor) -> Tensor:
        """Return ``[B * T]``: the group of each position, any number where it has none.

        Each position without a group has another number, so that not all of them write to one place.
        """
        own = torch.arange(group.numel(), device=group.device) % self.groups
        return own.where((group < 0).flatten(), group.flatten())


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
        sides = (student_keys, teacher_keys)
        small = small_numbers(*sides)
        keys = student_keys.numel() + teacher_keys.numel()
        sizes = torch.stack(
            [
                keys_of_side.new_zeros(keys).scatter_add(0, keys_of_side.flatten(), (side >= 0).long().flatten())
                for keys_of_side, side in zip(small, sides, strict=True)
            ]
        )
        counts = ((sizes == 1) if self.one_to_one else (sizes > 0)).all(0)
        number = (counts.cumsum(0) - 1).where(counts, -1)
        # Each group has a position on either side, so the shorter side has room for all.
        groups = min(student_keys.numel(), teacher_keys.numel())
        return number[small[0]], number[small[1]], groups

    def extra_repr(self) -> str:
        """Return the options, for printing."""
        return f"{self.name}, pooling={self.pooling}"


def _keys(given: TokenGroups, student: LMStates, teacher: LMStates) -> tuple[Tensor, Tensor]:
    """Return ``[B, Ts]`` and ``[B, Tt]``: a number that one group of one sample has; -1 outside or unscored."""
    sides = ((given.student, student), (given.teacher, teacher))
    # Samples are numbered afresh, so that sample and group fit into one integer whatever numbers came in.
    samples = small_numbers(*(states.samples for _, states in sides))
    keys = [
        (sample * 2**32 + groups).where((groups >= 0) & states.scored, -1)
        for sample, (groups, states) in zip(samples, sides, strict=True)
    ]
    return keys[0], keys[1]


class TextAligner(Aligner):
    """Base of an aligner that reads texts: its groups of tokens become an alignment of positions.

    A subclass needs a name and a `groups_of_text`. The states of several positions are brought over as their mean; one
    with other wishes overrides `build`.

    Examples:
        Tokens of the same bytes, and only those that are longer than some:

        >>> import numpy as np
        >>> from typing import Literal
        >>> from dskd_components.tokenization import exact_match_pairs, single_groups
        >>> class LongTokens(TextAligner):
        ...     name: Literal["long_tokens"] = "long_tokens"
        ...     shortest: int = 3
        ...     def groups_of_text(self, student, teacher):
        ...         pairs = exact_match_pairs(student, teacher)
        ...         lengths = (student.ends - student.cores)[pairs[:, 0]]
        ...         return single_groups(pairs[lengths >= self.shortest])
        >>> LongTokens().text_method
        'long_tokens'
    """

    reads_embeddings: ClassVar[bool] = False

    @abstractmethod
    def groups_of_text(self, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        """Bring together the tokens of two tokenizations of one text; see `Aligner.groups_of_text`."""

    def build(
        self,
        *,
        student_embedding_size: int,  # noqa: ARG002
        teacher_embedding_size: int,  # noqa: ARG002
        heads: ProjectorHeads | None = None,  # noqa: ARG002
    ) -> AlignerModule:
        """Return the module that applies the groups; it has no parameters."""
        return GroupedModule(self.name, one_to_one=self.one_to_one, pooling=self._pools_by())

    def _pools_by(self) -> Pooling:
        return "mean"


class ExactMatch(TextAligner):
    """One-to-one pairs of tokens that stand for the same bytes of the text; all other tokens are left out.

    Both models have then read the same text and are asked for the same next piece of it.
    """

    source: ClassVar[str] = "Zhang et al. 2025 (DSKD v2), arXiv 2504.11426, exact token alignment"

    name: Literal["exact_match"] = "exact_match"

    @property
    def one_to_one(self) -> bool:
        """Always: its groups have no more."""
        return True

    def groups_of_text(self, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        """Return the pairs of tokens that stand for the same bytes, leading spaces set aside."""
        return single_groups(exact_match_pairs(student, teacher))


class Span(TextAligner):
    """Groups of several tokens to several, closed at each border that both sides share.

    Every scored token that stands for text takes part. What stands for several tokens of the other side is their mean
    or the last of them.
    """

    source: ClassVar[str] = "dskd_components, docs/explanation/alignment.md"
    covers_text: ClassVar[bool] = True
    groups_options: ClassVar[tuple[str, ...] | None] = ()

    name: Literal["span"] = "span"
    pooling: Pooling = "mean"
    """What stands for several tokens of the other side."""

    def groups_of_text(self, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        """Return the smallest stretches of tokens that both sides cut out."""
        return span_groups(student, teacher)

    def _pools_by(self) -> Pooling:
        return self.pooling


class MinEdit(TextAligner):
    """Tokens that the cheapest warping path joins; it needs no knowledge of the text, and may be wrong.

    As released, only one-to-one joints count. Pooled, all tokens that the path joins, directly or through others, form
    one group.
    """

    source: ClassVar[str] = "Wan et al. 2024 (FuseLLM), arXiv 2401.10491, and the code of arXiv 2406.17328"
    follows_text: ClassVar[bool] = False
    covers_text: ClassVar[bool] = True
    groups_options: ClassVar[tuple[str, ...] | None] = ()

    name: Literal["min_edit"] = "min_edit"
    many_to_one: Literal["drop", "pool"] = "drop"
    """What becomes of tokens that the path joins with several: left out, as released, or pooled."""
    pooling: Pooling = "mean"
    """With ``pool``: what stands for several tokens of the other side."""

    @property
    def one_to_one(self) -> bool:
        """Whether joints of several are left out."""
        return self.many_to_one == "drop"

    def groups_of_text(self, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        """Return the tokens that the path joins."""
        return self.groups_of_texts([student], [teacher])[0]

    def groups_of_texts(self, students: Sequence[TokenizedText], teachers: Sequence[TokenizedText]) -> list[IntArray]:
        """Return the tokens that the path joins, of several texts in much less time than one after the other."""
        return warped_groups(students, teachers)

    def _pools_by(self) -> Pooling:
        return self.pooling
