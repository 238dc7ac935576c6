"""Draws the picture of the README: `python docs/images/draw_dual_space.py` writes dual_space.png beside itself."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch

STUDENT, TEACHER, INK = "#2f6f9f", "#b5532d", "#333333"


def box(axes: plt.Axes, x: float, y: float, text: str, colour: str, *, width: float = 2.5, filled: bool = True) -> None:
    """Draw a labelled box centred at a point."""
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - 0.42),
            width,
            0.84,
            boxstyle="round,pad=0.02,rounding_size=0.12",
            facecolor=colour if filled else "white",
            edgecolor=colour,
            linewidth=1.6,
        )
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=10, color="white" if filled else INK)


def arrow(axes: plt.Axes, start: tuple[float, float], end: tuple[float, float], colour: str, text: str = "") -> None:
    """Draw an arrow with a label above its middle."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.6})
    if text:
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.16)
        axes.text(*middle, text, ha="center", va="bottom", fontsize=9, color=INK)


def row(axes: plt.Axes, y: float, own: str, other: str, colours: tuple[str, str], labels: dict[str, str]) -> None:
    """Draw one space: two kinds of states on the left, their logits under one head, the distance on the right."""
    own_colour, other_colour = colours
    axes.add_patch(
        FancyBboxPatch(
            (0.1, y - 1.45),
            15.0,
            2.95,
            boxstyle="round,pad=0.02,rounding_size=0.2",
            facecolor="#f6f6f4",
            edgecolor="none",
        )
    )
    axes.text(0.3, y + 1.2, labels["title"], fontsize=11, fontweight="bold", color=INK, va="center")
    box(axes, 1.7, y + 0.5, own, own_colour)
    box(axes, 1.7, y - 0.75, other, other_colour)
    box(axes, 6.1, y - 0.75, labels["brought"], other_colour, filled=False, width=3.1)
    arrow(axes, (3.0, y - 0.75), (4.5, y - 0.75), other_colour, labels["project"])
    box(axes, 10.2, y + 0.5, labels["own_logits"], own_colour, filled=False, width=2.9)
    box(axes, 10.2, y - 0.75, labels["brought_logits"], other_colour, filled=False, width=2.9)
    arrow(axes, (3.0, y + 0.5), (8.7, y + 0.5), own_colour, labels["head"])
    arrow(axes, (7.7, y - 0.75), (8.7, y - 0.75), other_colour, labels["same_head"])
    box(axes, 13.7, y - 0.12, labels["terms"], INK, filled=False, width=2.3)
    arrow(axes, (11.7, y + 0.5), (12.5, y + 0.1), own_colour)
    arrow(axes, (11.7, y - 0.75), (12.5, y - 0.35), other_colour)


def main() -> None:
    """Draw both spaces and save the picture."""
    figure, axes = plt.subplots(figsize=(11, 4.6))
    row(
        axes,
        5.0,
        "student states",
        "teacher states",
        (STUDENT, TEACHER),
        {
            "title": "Student space, over the student's tokens",
            "project": "project t2s",
            "brought": "at the student's tokens",
            "head": "student's head",
            "same_head": "same",
            "own_logits": "student logits",
            "brought_logits": "projected teacher",
            "terms": "t2s_kd, t2s_ce",
        },
    )
    row(
        axes,
        1.7,
        "teacher states",
        "student states",
        (TEACHER, STUDENT),
        {
            "title": "Teacher space, over the teacher's tokens",
            "project": "project s2t",
            "brought": "at the teacher's tokens",
            "head": "teacher's head",
            "same_head": "same",
            "own_logits": "teacher logits",
            "brought_logits": "projected student",
            "terms": "s2t_kd",
        },
    )
    axes.set_xlim(0, 15.2)
    axes.set_ylim(0.1, 6.6)
    axes.axis("off")
    figure.savefig(Path(__file__).with_name("dual_space.png"), dpi=150, bbox_inches="tight", facecolor="white")


if __name__ == "__main__":
    main()
