"""A `Drawing` as a figure of matplotlib."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final

from dskd_components.tokenization.drawing import ALONE, JOINED, UNSCORED, columns

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from dskd_components.tokenization.drawing import Column, Drawing

PER_ROW: Final = 14
FILLED: Final = "#d8ebe3"
"""What tokens that are scored stand on."""


def plot_alignment(drawing: Drawing, *, ax: Axes | None = None, path: str | Path | None = None) -> Axes:
    """Draw the student's tokens above the teacher's, with lines between joined ones. Needs matplotlib.

    Args:
        drawing: What is drawn.
        ax: Where to draw; a new figure if left out.
        path: Where to save the figure as well.

    Returns:
        The axes drawn on.
    """
    from matplotlib.figure import Figure

    blocks = columns(drawing)
    lines = _broken(blocks)
    if ax is None:
        ax = Figure(figsize=(13, 0.6 + 1.3 * max(len(lines), 1)), layout="constrained").add_subplot()
    for number, line in enumerate(lines):
        _draw_line(ax, drawing, line, -float(number))
    ax.set_xlim(-0.01, 1.01)
    ax.set_ylim(-len(lines) + 0.35, 0.6)
    ax.set_title(f"{drawing.title}   (student above, teacher below)", fontsize=10, loc="left")
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


def _draw_line(ax: Axes, drawing: Drawing, line: list[Column], base: float) -> None:
    left = 0.0
    for block in line:
        size = max(len(block.student), len(block.teacher))
        color = JOINED if block.joined else ALONE if drawing.matters(block) else UNSCORED
        places = []
        for tokens, shown, height in ((block.student, drawing.student, 0.25), (block.teacher, drawing.teacher, -0.25)):
            step = size / max(len(tokens), 1)
            at = [(left + (rank + 0.5) * step) / PER_ROW for rank in range(len(tokens))]
            places.append(at)
            for x, index in zip(at, tokens, strict=True):
                text = shown[index].text
                label = text if len(text) <= 12 else text[:11] + "…"
                ax.text(
                    x,
                    base + height,
                    label.replace("$", r"\$"),
                    ha="center",
                    va="center",
                    fontsize=9,
                    bbox={
                        "boxstyle": "round,pad=0.25",
                        "facecolor": FILLED if shown[index].scored else "white",
                        "edgecolor": color,
                    },
                )
        if block.joined:
            for upper in places[0]:
                for lower in places[1]:
                    ax.plot([upper, lower], [base + 0.13, base - 0.13], color=color, linewidth=1.2)
        left += size
