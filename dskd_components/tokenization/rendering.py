"""Alignments to look at: as text for a terminal, and as a figure."""

from __future__ import annotations

import unicodedata
import warnings
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from dskd_components.tokenization.byte_spans import TokenizedText

WHITESPACE = {" ": "·", "\n": "⏎", "\r": "↵", "\t": "⇥", "\u00a0": "⍽", "\u3000": "⍽"}


class Drawable(Protocol):
    """What is drawn of an alignment; `TextAlignment` has it."""

    @property
    def student(self) -> TokenizedText:
        """The student's tokens."""

    @property
    def teacher(self) -> TokenizedText:
        """The teacher's tokens."""

    @property
    def method(self) -> str:
        """How they were aligned."""

    @property
    def groups(self) -> Sequence[tuple[tuple[int, int], tuple[int, int]]]:
        """Groups ``((student start, student stop), (teacher start, teacher stop))``."""

    @property
    def unaligned_student(self) -> Sequence[tuple[int, str]]:
        """The student's tokens without a partner, and why."""

    @property
    def unaligned_teacher(self) -> Sequence[tuple[int, str]]:
        """The teacher's tokens without a partner, and why."""

    @property
    def student_coverage(self) -> float:
        """The share of the student's tokens that have a partner."""

    @property
    def teacher_coverage(self) -> float:
        """The share of the teacher's tokens that have a partner."""


class Column(NamedTuple):
    """Tokens of both sides drawn above each other: joined ones, or lone ones at the same place."""

    student: range
    teacher: range
    joined: bool


def columns(alignment: Drawable) -> list[Column]:
    """The columns that an alignment is drawn in, from left to right."""
    drawn = []
    student, teacher = 0, 0
    end = (len(alignment.student), len(alignment.teacher))
    for (first, last), (start, stop) in [*alignment.groups, ((end[0], end[0]), (end[1], end[1]))]:
        if first > student or start > teacher:
            drawn.append(Column(range(student, first), range(teacher, start), joined=False))
        if last > first or stop > start:
            drawn.append(Column(range(first, last), range(start, stop), joined=True))
        student, teacher = last, stop
    return drawn


def surfaces(side: TokenizedText) -> list[str]:
    """The text of each token with its whitespace made visible; a token of no text as its own string."""
    shown = []
    for surface, token in zip(side.surfaces(), side.tokens, strict=True):
        text = surface or token
        shown.append("".join(WHITESPACE.get(letter, letter if letter.isprintable() else "�") for letter in text))
    return shown


def display_width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def render_text(alignment: Drawable, *, width: int = 100) -> str:
    """The student's tokens above the teacher's, a bar between joined ones, and why others are not.

    Args:
        alignment: The alignment.
        width: After how many columns the rows are broken.
    """
    student, teacher = surfaces(alignment.student), surfaces(alignment.teacher)
    lines = [f"{alignment.method}: {_coverage(alignment)}"]
    rows = ["", "", ""]
    for column in columns(alignment):
        upper = "|".join(student[index] for index in column.student)
        lower = "|".join(teacher[index] for index in column.teacher)
        size = max(display_width(upper), display_width(lower), 1)
        mark = ("┃" if len(column.student) == len(column.teacher) == 1 else "╂") if column.joined else "✗"
        if rows[1] and display_width(rows[1]) + size + 2 > width:
            lines += [*(row.rstrip() for row in rows), ""]
            rows = ["", "", ""]
        for position, part in enumerate((upper, mark, lower)):
            rows[position] += part + " " * (size - display_width(part) + 2)
    lines += [row.rstrip() for row in rows]
    for name, shown, unaligned in (
        ("student", student, alignment.unaligned_student),
        ("teacher", teacher, alignment.unaligned_teacher),
    ):
        lines += [f"{name} {index} {shown[index]!r}: {reason}" for index, reason in unaligned]
    return "\n".join(lines)


def _coverage(alignment: Drawable) -> str:
    return (
        f"{alignment.student_coverage:.0%} of {len(alignment.student)} student tokens and "
        f"{alignment.teacher_coverage:.0%} of {len(alignment.teacher)} teacher tokens"
    )


PER_ROW = 14
JOINED, ALONE = "#2a7f62", "#b3402e"


def plot_alignment(alignment: Drawable, *, ax: Axes | None = None, path: str | Path | None = None) -> Axes:
    """Draw the student's tokens above the teacher's, with lines between joined ones. Needs matplotlib.

    Args:
        alignment: The alignment.
        ax: Where to draw; a new figure if left out.
        path: Where to save the figure as well.

    Returns:
        The axes drawn on.
    """
    from matplotlib.figure import Figure

    blocks = columns(alignment)
    lines = _broken(blocks)
    if ax is None:
        ax = Figure(figsize=(13, 0.6 + 1.3 * max(len(lines), 1)), layout="constrained").add_subplot()
    for number, line in enumerate(lines):
        _draw_line(ax, alignment, line, -float(number))
    ax.set_xlim(-0.01, 1.01)
    ax.set_ylim(-len(lines) + 0.35, 0.6)
    ax.set_title(
        f"{alignment.method}: {_coverage(alignment)}   (student above, teacher below)",
        fontsize=10,
        loc="left",
    )
    ax.set_axis_off()
    if path is not None:
        figure = ax.get_figure(root=True)
        assert figure is not None
        with warnings.catch_warnings():  # letters that the font lacks are drawn as boxes
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(path, dpi=150)
    return ax


def _broken(blocks: list[Column]) -> list[list[Column]]:
    """The columns broken into lines of about equal width."""
    lines: list[list[Column]] = [[]]
    used = 0
    for block in blocks:
        size = max(len(block.student), len(block.teacher))
        if lines[-1] and used + size > PER_ROW:
            lines.append([])
            used = 0
        lines[-1].append(block)
        used += size
    return lines


def _draw_line(ax: Axes, alignment: Drawable, line: list[Column], base: float) -> None:
    student, teacher = surfaces(alignment.student), surfaces(alignment.teacher)
    left = 0.0
    for block in line:
        size = max(len(block.student), len(block.teacher))
        color = JOINED if block.joined else ALONE
        places = []
        for tokens, shown, height in ((block.student, student, 0.25), (block.teacher, teacher, -0.25)):
            step = size / max(len(tokens), 1)
            at = [(left + (rank + 0.5) * step) / PER_ROW for rank in range(len(tokens))]
            places.append(at)
            for x, index in zip(at, tokens, strict=True):
                label = shown[index] if len(shown[index]) <= 12 else shown[index][:11] + "…"
                ax.text(
                    x,
                    base + height,
                    label.replace("$", r"\$"),
                    ha="center",
                    va="center",
                    fontsize=9,
                    bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": color},
                )
        if block.joined:
            for upper in places[0]:
                for lower in places[1]:
                    ax.plot([upper, lower], [base + 0.13, base - 0.13], color=color, linewidth=1.2)
        left += size
