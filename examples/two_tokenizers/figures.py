"""The two figures: how training went, and what the aligner has learned."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from examples.two_tokenizers.attention import LearnedAlignment
    from examples.two_tokenizers.recording import Arm, Results, Run

STUDENTS: Final[dict[Arm, tuple[str, str]]] = {
    "ce": ("student, cross entropy alone", "#4477AA"),
    "dskd-cma": ("student, dskd-cma as published", "#EE6677"),
    "recommended": ("student, as recommended", "#228833"),
}
TEACHER_COLOUR: Final = "#555555"


def draw_curves(results: Results, path: Path) -> None:
    """Draw held-out loss, what the teacher brings, and alignment over the students' steps.

    Args:
        results: all runs.
        path: the PNG to write.
    """
    figure = _new_figure(14.0, 4.4)
    held_out, gains, alignment = figure.subplots(1, 3)
    _draw_held_out(held_out, results)
    _draw_gains(gains, results)
    _draw_alignment_accuracy(alignment, results.of("dskd-cma"))
    seeds = len(results.settings.seeds)
    figure.suptitle(f"Lines: mean over {seeds} seeds; bands: from the lowest to the highest seed", fontsize=10)
    figure.savefig(path, dpi=110)


def draw_alignment(alignment: LearnedAlignment, path: Path) -> None:
    """Draw the weights of cross-model attention as a heat map, the true correspondence marked.

    Args:
        alignment: of one sentence.
        path: the PNG to write.
    """
    rows, columns = alignment.weights.shape
    figure = _new_figure(3.2 + 0.30 * columns, 2.2 + 0.27 * rows)
    axes = figure.subplots()
    image = axes.imshow(alignment.weights.numpy(), cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for row, column in alignment.true_pairs:
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#EE6677", linewidth=1.4))
    axes.set_xticks(range(columns), alignment.teacher_tokens, rotation=90, family="monospace", fontsize=9)
    axes.set_yticks(range(rows), alignment.student_tokens, family="monospace", fontsize=9)
    axes.set_xlabel("token that the teacher's position predicts (byte-level BPE)")
    axes.set_ylabel("token that the student's position predicts\n(Metaspace BPE)")
    hits = sum(int(alignment.weights[row].argmax()) == column for row, column in alignment.true_pairs)
    axes.set_title(
        f"Cross-model attention on a held-out sentence\nred: both tokens stand for the same characters; "
        f"the greatest weight is there in {hits} of {len(alignment.true_pairs)} rows",
        fontsize=10,
    )
    figure.colorbar(image, ax=axes, label="attention weight (each row sums to 1)", fraction=0.04, pad=0.02)
    figure.savefig(path, dpi=110)


def _draw_held_out(axes: Axes, results: Results) -> None:
    for arm, (label, colour) in STUDENTS.items():
        steps, series = _held_out(results.of(arm))
        _draw_band(axes, steps, series, label, colour, marker="o")
    teacher = results.teacher.score.nats_per_byte
    axes.axhline(teacher, color=TEACHER_COLOUR, linestyle="--", label="teacher")
    _finish(axes, "Held-out text", "loss (nats per byte)")


def _draw_gains(axes: Axes, results: Results) -> None:
    steps, alone = _held_out(results.of("ce"))
    axes.axhline(0.0, color=STUDENTS["ce"][1], label=STUDENTS["ce"][0])
    for arm, (label, colour) in list(STUDENTS.items())[1:]:
        _, taught = _held_out(results.of(arm))
        pairs = zip(taught, alone, strict=True)
        series = [[ours - theirs for ours, theirs in zip(*pair, strict=True)] for pair in pairs]
        _draw_band(axes, steps, series, label, colour, marker="o")
    _finish(axes, "The same, minus cross entropy alone, seed by seed", "difference (nats per byte)")


def _held_out(runs: Sequence[Run]) -> tuple[list[int], list[list[float]]]:
    """Return the steps at which students were measured, and for each run its losses; all begin alike."""
    return [step for step, _ in runs[0].held_out], [[score.nats_per_byte for _, score in run.held_out] for run in runs]


def _draw_alignment_accuracy(axes: Axes, runs: Sequence[Run]) -> None:
    names = {
        "alignment_accuracy": ("greatest attention weight is on the true token", "#228833"),
        "t2s_accuracy": ("projected teacher predicts the student's token", "#AA3377"),
    }
    for name, (label, colour) in names.items():
        steps, series = _smoothed(runs, name)
        _draw_band(axes, steps, [[100 * value for value in values] for values in series], label, colour)
    axes.set_ylim(0, 100)
    _finish(axes, "dskd-cma: what its aligner and projector learn", "share of positions (%)")


def _smoothed(runs: Sequence[Run], name: str) -> tuple[list[int], list[list[float]]]:
    """Return means over windows of steps, each at the last step of its window."""
    total = len(runs[0].log[name])
    window = max(1, total // 25)
    ends = list(range(window, total + 1, window))
    return ends, [[statistics.fmean(run.log[name][end - window : end]) for end in ends] for run in runs]


def _draw_band(
    axes: Axes, steps: list[int], series: list[list[float]], label: str, colour: str, marker: str | None = None
) -> None:
    by_step = list(zip(*series, strict=True))
    axes.plot(steps, [statistics.fmean(values) for values in by_step], color=colour, label=label, marker=marker)
    lows, highs = [min(values) for values in by_step], [max(values) for values in by_step]
    axes.fill_between(steps, lows, highs, color=colour, alpha=0.25, linewidth=0)


def _finish(axes: Axes, title: str, y_label: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("optimizer step of the student")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)


def _new_figure(width: float, height: float) -> Figure:
    """Return a figure of its own, in inches: no window and no global state of pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
