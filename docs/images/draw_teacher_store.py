"""Draws the way of a teacher's states: `python docs/images/draw_teacher_store.py` writes teacher_store.png."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import FancyBboxPatch

STUDENT, TEACHER, DISK, INK = "#2f6f9f", "#b5532d", "#5d7a45", "#333333"


def panel(axes: plt.Axes, bottom: float, height: float, title: str, title_at: float) -> None:
    """Draw the ground of one part of the picture, with its title."""
    style = "round,pad=0.02,rounding_size=0.2"
    ground = FancyBboxPatch((0.1, bottom), 15.0, height, boxstyle=style, facecolor="#f6f6f4", edgecolor="none")
    axes.add_patch(ground)
    axes.text(0.35, title_at, title, fontsize=11, fontweight="bold", color=INK, va="center")


def box(axes: plt.Axes, x: float, y: float, text: str, colour: str, *, width: float = 2.6, height: float = 0.9) -> None:
    """Draw a labelled box centred at a point."""
    corner, style = (x - width / 2, y - height / 2), "round,pad=0.02,rounding_size=0.12"
    filled = colour != INK
    face = colour if filled else "white"
    axes.add_patch(
        FancyBboxPatch(corner, width, height, boxstyle=style, facecolor=face, edgecolor=colour, linewidth=1.6)
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=10, color="white" if filled else INK)


def arrow(axes: plt.Axes, start: tuple[float, float], end: tuple[float, float], colour: str, text: str = "") -> None:
    """Draw an arrow with a label above its middle."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.6})
    if text:
        axes.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.12, text, ha="center", fontsize=9, color=INK)


def main() -> None:
    """Draw how a store is built and read, and save the picture."""
    figure, axes = plt.subplots(figsize=(11, 5.2))
    panel(axes, 4.55, 2.35, "Once: TeacherStore.build, in parts if need be", 6.6)
    box(axes, 1.8, 5.5, "samples", INK)
    box(axes, 5.6, 5.5, "teacher's tokens", TEACHER)
    box(axes, 9.4, 5.5, "teacher, one pass", TEACHER)
    box(axes, 13.3, 5.5, "states, by position", TEACHER)
    for left, text in ((3.1, "collator"), (6.9, "by length"), (10.7, "encode")):
        arrow(axes, (left, 5.5), (left + 1.2, 5.5), TEACHER, text)

    box(axes, 3.0, 3.7, "teacher-*.safetensors\nhead, embedding", DISK, width=3.4)
    box(axes, 7.6, 3.7, "index.safetensors\nmanifest.json", DISK, width=3.4)
    box(axes, 12.2, 3.7, "states-*.safetensors\ntokens, states, checksums", DISK, width=4.0)
    arrow(axes, (13.3, 5.0), (12.6, 4.2), TEACHER)

    panel(axes, 0.1, 2.75, "Each step, for any student: no teacher in memory", 0.5)
    box(axes, 1.8, 1.7, "samples", INK)
    box(axes, 5.9, 1.7, "ReadAheadCollator,\nin the loader's workers", STUDENT, width=3.6)
    box(axes, 10.0, 1.7, "batch with states", STUDENT)
    box(axes, 13.6, 1.7, "loss_fn.run(student,\nstore, batch)", STUDENT)
    box(axes, 10.0, 0.6, "student, forward", STUDENT, height=0.7)
    arrow(axes, (3.1, 1.7), (4.0, 1.7), STUDENT)
    arrow(axes, (7.8, 1.7), (8.6, 1.7), STUDENT)
    arrow(axes, (11.4, 1.7), (12.2, 1.7), STUDENT)
    arrow(axes, (11.4, 0.65), (12.6, 1.2), STUDENT)
    arrow(axes, (7.2, 3.2), (6.3, 2.25), DISK, "find by tokens")
    arrow(axes, (11.0, 3.2), (7.4, 2.25), DISK, "read")
    axes.set_xlim(0, 15.2)
    axes.set_ylim(0, 7.0)
    axes.axis("off")
    figure.savefig(Path(__file__).with_name("teacher_store.png"), dpi=150, bbox_inches="tight", facecolor="white")


if __name__ == "__main__":
    main()
