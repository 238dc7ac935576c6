"""The picture and the tables of what `benchmarks.evidence.attention` has measured."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from benchmarks.evidence.attention_pairs import STUDENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

COLOURS: Final = {
    "published": "#4477AA",
    "no target": "#66CCEE",
    "heads": "#AA3377",
    "kq": "#CCBB44",
    "shared": "#EE6677",
    "shared, no target": "#228833",
    "shared, no target, heads": "#BBBBBB",
}


def runs_of_way(found: Mapping[str, Any], student: str, way: str) -> list[dict[str, Any]]:
    """Return a way's runs of the usual length at the usual rate, one of each seed.

    Args:
        found: of `results`.
        student: the student's tokenizer.
        way: the way.
    """
    wanted = student, way, found["plan"]["projector_lr"], False
    return [run for run in found["runs"] if (run["student"], run["way"], run["lr"], run["long"]) == wanted]


def end_of(found: Mapping[str, Any], student: str, way: str, kind: str, number: str) -> list[float]:
    """Return a number at the end of a way's runs, one of each seed.

    Args:
        found: of `results`.
        student: the student's tokenizer.
        way: the way.
        kind: of the texts.
        number: its name.
    """
    runs = runs_of_way(found, student, way)
    last = found["plan"]["moments"][-1]
    return [row[kind][number] for run in runs for row in run["rows"] if row["step"] == last]


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy over training for each family, and of the long runs.

    Args:
        found: of `results`.
        path: the PNG.
    """
    figure = Figure(figsize=(13, 7.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3, sharey=True).flatten()
    for ax, student in zip(axes, found["known"], strict=False):
        _draw_family(ax, found, student)
    if any(run["long"] for run in found["runs"]):
        _draw_long(axes[-1], found)
    else:
        axes[-1].set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    for ax in axes[: len(found["known"])]:
        ax.set_ylim(0, 1.0)
    for ax in axes[len(found["known"]) : -1]:
        ax.set_axis_off()
    figure.suptitle("Share of exact pairs on which attention has its greatest weight, on documents not learned from")
    figure.savefig(path, dpi=100)


def _draw_family(ax: Axes, found: Mapping[str, Any], student: str) -> None:
    facts = found["known"][student]["documentation"]
    for way, colour in COLOURS.items():
        runs = runs_of_way(found, student, way)
        if not runs:
            continue
        steps = [row["step"] for row in runs[0]["rows"]]
        values = list(zip(*([row["documentation"]["exact"] for row in run["rows"]] for run in runs), strict=False))
        steps = steps[: len(values)]
        title = found["ways"][way].replace("`", "")
        ax.plot(steps, [statistics.fmean(each) for each in values], color=colour, marker="o", ms=3, label=title)
        ax.fill_between(steps, *zip(*((min(each), max(each)) for each in values), strict=True), color=colour, alpha=0.2)
    _levels(ax, facts)
    _finish(ax, f"{STUDENTS[student]} ({student})")


def _draw_long(ax: Axes, found: Mapping[str, Any]) -> None:
    runs = [run for run in found["runs"] if run["long"]]
    for run in runs:
        steps = [row["step"] for row in run["rows"]]
        for kind, style in (("documentation", "-"), ("code", ":")):
            values = [row[kind]["exact"] for row in run["rows"]]
            label = f"{run['way']}, {'other documents' if kind == 'documentation' else 'code'}"
            ax.plot(steps, values, style, color=COLOURS[run["way"]], marker="o", ms=3, label=label)
    _finish(ax, f"longer, {runs[0]['student']}")
    ax.legend(fontsize=8, frameon=False)


def _levels(ax: Axes, facts: Mapping[str, float]) -> None:
    for name, label, style in (
        ("ceiling", "the most that attention without positions can find", "--"),
        ("diagonal", "as far into the text on both sides", "-."),
        ("uniform", "at random", ":"),
    ):
        ax.axhline(facts[name], color="#555555", linestyle=style, linewidth=1.1, label=label)


def _finish(ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=10)
    ax.set_xscale("symlog", linthresh=8, base=2)
    ax.set_xticks([0, 8, 16, 32, 64, 128, 256, 512], ["0", "8", "16", "32", "64", "128", "256", "512"])
    ax.set_xlim(-1, 600)
    ax.set_xlabel("optimizer steps of 4 texts")
    ax.set_ylabel("share right")
    ax.yaxis.set_tick_params(labelleft=True)
    ax.grid(alpha=0.3)


def families(found: Mapping[str, Any]) -> str:
    """Return the table with a row for each family, in Markdown.

    Args:
        found: of `results`.
    """
    ways = [way for way in found["ways"] if way in ("published", "no target", "shared, no target")]
    head = ["student's tokenizer", "tokens with an exact pair", "at random", "diagonal", "the most", *ways]
    lines = [_row(head), "|---" * len(head) + "|"]
    for student, known in found["known"].items():
        facts = known["documentation"]
        cells = [f"{STUDENTS[student]} (`{student}`)", _share(facts["pairs"] / facts["tokens"])]
        cells += [_share(facts[name]) for name in ("uniform", "diagonal", "ceiling")]
        cells += [_seeds(end_of(found, student, way, "documentation", "exact")) for way in ways]
        lines.append(_row(cells))
    return "\n".join(lines)


def ways(found: Mapping[str, Any]) -> str:
    """Return the table with a row for each way: means over the families that are complete, in Markdown.

    Args:
        found: of `results`.
    """
    numbers: tuple[tuple[str, Callable[[str], list[float]]], ...] = (
        ("right, exact pairs", lambda way: _over(found, way, "documentation", "exact")),
        ("weight there", lambda way: _over(found, way, "documentation", "weight")),
        ("weight on later positions", lambda way: _over(found, way, "documentation", "later")),
        ("in the right span", lambda way: _over(found, way, "documentation", "span")),
        ("right, exact pairs of code", lambda way: _over(found, way, "code", "exact")),
    )
    lines = [_row(["attention", *(name for name, _ in numbers)]), "|---" * (1 + len(numbers)) + "|"]
    for way, title in found["ways"].items():
        values = [of(way) for _, of in numbers]
        if values[0]:
            lines.append(_row([title, *(_share(statistics.fmean(each)) for each in values)]))
    for name, title in (("diagonal", "*as far into the text on both sides*"), ("uniform", "*at random*")):
        facts, code = (
            [found["known"][student][kind] for student in complete(found)] for kind in ("documentation", "code")
        )
        if facts:
            means = _mean(facts, name), _mean(facts, f"{name} span"), _mean(code, name)
            exact, span, of_code = map(_share, means)
            lines.append(_row([title, exact, "", "", span, of_code]))
    return "\n".join(lines)


def summary(found: Mapping[str, Any]) -> Table:
    """Return the ends of all runs, for the terminal.

    Args:
        found: of `results`.
    """
    table = Table("attention", *found["known"], title="Exact pairs found in other documents, mean over seeds")
    for way in found["ways"]:
        ends = [end_of(found, student, way, "documentation", "exact") for student in found["known"]]
        table.add_row(way, *(_share(statistics.fmean(each)) if each else "" for each in ends))
    return table


def complete(found: Mapping[str, Any]) -> list[str]:
    """Return the students whose runs have ended in every way, so that means over them compare.

    Args:
        found: of `results`.
    """
    return [
        student
        for student in found["known"]
        if all(end_of(found, student, way, "documentation", "exact") for way in found["ways"])
    ]


def _over(found: Mapping[str, Any], way: str, kind: str, number: str) -> list[float]:
    of_students = (end_of(found, student, way, kind, number) for student in complete(found))
    return [statistics.fmean(values) for values in of_students]


def _mean(facts: list[dict[str, float]], name: str) -> float:
    return statistics.fmean(each[name] for each in facts)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _share(value: float) -> str:
    return f"{value:.1%}".replace("%", " %")


def _seeds(values: list[float]) -> str:
    return " / ".join(_share(value) for value in values) or "-"
