"""How the tokens of two tokenizers correspond on one text, and why a token has no partner."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from dskd_components.tokenization.byte_spans import TokenizedText, core_starts, overlapping
from dskd_components.tokenization.drawing import Drawing, DrawnToken, visible
from dskd_components.tokenization.figure import plot_alignment
from dskd_components.tokenization.rendering import render_text

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from dskd_components.tokenization.arrays import BoolArray, IntArray


class UnalignedReason(StrEnum):
    """Why a token has no partner; these are all the reasons there are."""

    TEMPLATE = "template token that the other side lacks"
    NO_TEXT = "stands for no text"
    REWRITTEN = "shares a character that its normaliser rewrote"
    SPACES = "spaces that the other side joins to a word"
    SPLIT = "split into several tokens on the other side"
    MERGED = "part of a longer token on the other side"
    CROSSING = "its boundaries cross those of the other side"
    UNCOVERED = "the other side has no token here"
    SEVERAL = "belongs to several tokens, of which single ones alone count"
    LEFT_OUT = "left out by the aligner"


def unaligned_reasons(
    side: TokenizedText, other: TokenizedText, aligned: BoolArray, several: BoolArray | None = None
) -> list[tuple[int, UnalignedReason]]:
    """The index of every token without a partner, and the reason.

    Args:
        side: The tokens to account for.
        other: The other side's tokens of the same text.
        aligned: Which tokens of `side` have a partner ``[T]``.
        several: Which of them are in a group that does not count, because it has several tokens ``[T]``; None: none.
    """
    missing = np.flatnonzero(~aligned)
    if len(missing) == 0:
        return []
    starts, ends = side.starts[side.text_tokens], side.ends[side.text_tokens]
    shared = overlapping(starts, ends)
    cores = core_starts(side.data, starts, ends)
    covers = _Cover(other)
    found = []
    for index in missing.tolist():
        token = index - side.bos_count
        if not 0 <= token < len(starts):
            reason = UnalignedReason.TEMPLATE
        elif several is not None and several[index]:
            reason = UnalignedReason.SEVERAL
        elif starts[token] == ends[token]:
            reason = UnalignedReason.NO_TEXT
        elif shared[token]:
            reason = UnalignedReason.REWRITTEN
        else:
            reason = covers.reason(int(cores[token]), int(ends[token]))
        found.append((index, reason))
    return found


class _Cover:
    """The other side's spans, without leading spaces and without tokens that stand for no text."""

    def __init__(self, side: TokenizedText) -> None:
        starts, ends = side.starts[side.text_tokens], side.ends[side.text_tokens]
        filled = ends > starts
        self._ends = ends[filled]
        self._starts = core_starts(side.data, starts[filled], self._ends)
        self._data = side.data

    def reason(self, start: int, end: int) -> UnalignedReason:
        first = int(np.searchsorted(self._ends, start, side="right"))
        stop = int(np.searchsorted(self._starts, end, side="left"))
        if first >= stop:
            only_spaces = len(self._ends) > 0 and not self._data[start:end].strip(b" ")
            return UnalignedReason.SPACES if only_spaces else UnalignedReason.UNCOVERED
        left, right = int(self._starts[first]), int(self._ends[stop - 1])
        if stop - first == 1 and left == start and end == right:
            return UnalignedReason.LEFT_OUT
        if stop - first == 1 and left <= start and end <= right:
            return UnalignedReason.MERGED
        if start <= left and right <= end:
            return UnalignedReason.SPLIT
        return UnalignedReason.CROSSING


@dataclass(frozen=True, eq=False)
class TextAlignment:
    """Which tokens of a student and a teacher belong together.

    Attributes:
        student: The student's tokens and their spans.
        teacher: The teacher's tokens and their spans.
        method: The name of the aligner that brought them together, with its options.
        group_indices: Rows ``student start, student stop, teacher start, teacher stop`` ``[G, 4]``,
            ascending.
        one_to_one: Whether of the groups only those of one token on each side count as partners.
    """

    student: TokenizedText
    teacher: TokenizedText
    method: str
    group_indices: IntArray
    one_to_one: bool = False

    @cached_property
    def pair_indices(self) -> IntArray:
        """One-to-one pairs of student and teacher index ``[P, 2]``, ascending: the groups of one token on each side."""
        single = (np.diff(self.group_indices)[:, [0, 2]] == 1).all(1)
        pairs: IntArray = self.group_indices[single][:, [0, 2]]
        return pairs

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """One-to-one pairs ``(student index, teacher index)``."""
        return [(student, teacher) for student, teacher in self.pair_indices.tolist()]

    @cached_property
    def groups(self) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Groups ``((student start, student stop), (teacher start, teacher stop))`` in token indices."""
        return [((a, b), (c, d)) for a, b, c, d in self.group_indices.tolist()]

    @cached_property
    def unaligned_student(self) -> list[tuple[int, UnalignedReason]]:
        """The student's tokens without a partner, and why."""
        return self._unaligned(self.student, self.teacher, 0)

    @cached_property
    def unaligned_teacher(self) -> list[tuple[int, UnalignedReason]]:
        """The teacher's tokens without a partner, and why."""
        return self._unaligned(self.teacher, self.student, 1)

    @property
    def text(self) -> str:
        """The text."""
        return self.student.text

    @property
    def student_tokens(self) -> tuple[str, ...]:
        """The student's token strings."""
        return self.student.tokens

    @property
    def teacher_tokens(self) -> tuple[str, ...]:
        """The teacher's token strings."""
        return self.teacher.tokens

    @property
    def student_coverage(self) -> float:
        """The share of the student's tokens that have a partner; 1 for a text without tokens."""
        return 1.0 - len(self.unaligned_student) / max(len(self.student), 1)

    @property
    def teacher_coverage(self) -> float:
        """The share of the teacher's tokens that have a partner; 1 for a text without tokens."""
        return 1.0 - len(self.unaligned_teacher) / max(len(self.teacher), 1)

    def _unaligned(self, side: TokenizedText, other: TokenizedText, column: int) -> list[tuple[int, UnalignedReason]]:
        member, paired = np.zeros(len(side), dtype=np.bool_), np.zeros(len(side), dtype=np.bool_)
        for start, stop in self.group_indices[:, 2 * column : 2 * column + 2].tolist():
            member[start:stop] = True
        paired[self.pair_indices[:, column]] = True
        aligned = paired if self.one_to_one else member
        return unaligned_reasons(side, other, aligned, member & ~aligned)

    @property
    def _drawing(self) -> Drawing:
        sides = ("student", self.student, self.unaligned_student), ("teacher", self.teacher, self.unaligned_teacher)
        shown = {name: drawn_texts(side) for name, side, _ in sides}
        return Drawing(
            title=(
                f"{self.method}: {self.student_coverage:.0%} of {len(self.student)} student tokens and "
                f"{self.teacher_coverage:.0%} of {len(self.teacher)} teacher tokens"
            ),
            student=[DrawnToken(text) for text in shown["student"]],
            teacher=[DrawnToken(text) for text in shown["teacher"]],
            groups=self.groups,
            notes=[
                f"{name} {index} {shown[name][index]!r}: {reason}"
                for name, _, unaligned in sides
                for index, reason in unaligned
            ],
        )

    def to_text(self, *, width: int = 100) -> str:
        """The two token rows and what joins them, as text; see `dskd_components.tokenization.rendering`.

        Args:
            width: After how many columns the rows are broken.
        """
        return render_text(self._drawing, width=width)

    def plot(self, ax: Axes | None = None, *, path: str | Path | None = None) -> Axes:
        """Draw the two token rows and what joins them. Needs matplotlib.

        Args:
            ax: Where to draw; a new figure if left out.
            path: Where to save the figure as well.
        """
        return plot_alignment(self._drawing, ax=ax, path=path)


def drawn_texts(side: TokenizedText) -> list[str]:
    """What is written for each token when it is drawn: the text that it stands for, or its own string if it has none.

    Args:
        side: A text and its tokens.
    """
    return [visible(surface or token) for surface, token in zip(side.surfaces(), side.tokens, strict=True)]
