"""Two rows of tokens and what joins them: what `rendering` and `figure` draw.

`TextAlignment` and the collators' views of samples each make a `Drawing`, so that both look alike.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WHITESPACE: Final = {" ": "·", "\n": "⏎", "\r": "↵", "\t": "⇥", "\u00a0": "⍽", "\u3000": "⍽"}
CARRIER: Final = "◌"
"""What a mark that combines with the letter before it is drawn on, if there is no such letter in its token."""

JOINED, ALONE, UNSCORED = "#2a7f62", "#b3402e", "#999999"


@dataclass(frozen=True)
class DrawnToken:
    """One token.

    Attributes:
        text: What is written, see `visible`.
        scored: Whether it is marked as scored; None: nothing is said of that.
        hint: What is said of it where one can point at it.
    """

    text: str
    scored: bool | None = None
    hint: str = ""


@dataclass(frozen=True)
class Drawing:
    """What is drawn.

    Attributes:
        title: The lines above.
        student: The student's tokens.
        teacher: The teacher's tokens.
        groups: What is joined: ``((student start, student stop), (teacher start, teacher stop))``, ascending.
        notes: The lines below.
        names: What stands before the two rows; empty: nothing.
        cuts: Where lone tokens are drawn apart: ``(student, teacher)`` tokens before which both sides have a border of
            the text, ascending.
        can_join: Whether tokens are joined at all, so that lone ones are marked.
    """

    title: str
    student: Sequence[DrawnToken]
    teacher: Sequence[DrawnToken]
    groups: Sequence[tuple[tuple[int, int], tuple[int, int]]]
    notes: Sequence[str] = ()
    names: tuple[str, str] | None = None
    cuts: Sequence[tuple[int, int]] = ()
    can_join: bool = True

    @cached_property
    def marks_scored(self) -> bool:
        """Whether it is said of tokens if they are scored."""
        return any(token.scored is not None for token in (*self.student, *self.teacher))

    def matters(self, column: Column) -> bool:
        """Whether any token of a column is to be learned, as far as that is said.

        Args:
            column: One of the drawn columns.
        """
        tokens = [self.student[index] for index in column.student] + [self.teacher[index] for index in column.teacher]
        return any(token.scored is not False for token in tokens)


class Column(NamedTuple):
    """Tokens of both sides drawn above each other: joined ones, or lone ones at the same place."""

    student: range
    teacher: range
    joined: bool


def columns(drawing: Drawing) -> list[Column]:
    """The columns that are drawn, from left to right."""
    drawn: list[Column] = []
    student, teacher = 0, 0
    end = (len(drawing.student), len(drawing.teacher))
    for (first, last), (start, stop) in [*drawing.groups, ((end[0], end[0]), (end[1], end[1]))]:
        drawn += _lone((student, teacher), (first, start), drawing.cuts)
        if last > first or stop > start:
            drawn.append(Column(range(first, last), range(start, stop), joined=True))
        student, teacher = last, stop
    return drawn


def _lone(begin: tuple[int, int], end: tuple[int, int], cuts: Sequence[tuple[int, int]]) -> Iterator[Column]:
    """Columns of tokens that nothing joins, from one place to another."""
    between = cuts[bisect_left(cuts, begin) : bisect_right(cuts, end)]
    for student, teacher in [*(cut for cut in between if begin[1] <= cut[1] <= end[1]), end]:
        if student > begin[0] or teacher > begin[1]:
            yield Column(range(begin[0], student), range(begin[1], teacher), joined=False)
            begin = student, teacher


def visible(text: str) -> str:
    r"""Return a text with its whitespace made visible, and what would not print, or move the cursor, as an escape.

    Examples:
        >>> visible(" a\n\x1b[31m\u202e")
        '·a⏎\\x1b[31m\\u202e'
    """
    shown = "".join(
        WHITESPACE.get(letter, letter if letter.isprintable() else letter.encode("unicode_escape").decode())
        for letter in text
    )
    return CARRIER + shown if unicodedata.category(shown[:1] or "a").startswith("M") else shown


def display_width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    from rich.cells import cell_len

    return cell_len(text)
