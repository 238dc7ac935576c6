"""The pictures of the page of evidence."""

from __future__ import annotations

import math
import re
import statistics
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.evidence.tables import BY_VOCABULARIES, SHORT, base_of, of_vocabularies, over_texts, title

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from benchmarks.evidence.tables import Found

    Change = tuple[str, Found, float, bool]
    """Of a picture: label, difference, what it is a share of, whether the label is bold."""

COLOURS: Final = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB")
BETTER: Final = "#228833"
WORSE: Final = "#EE6677"
UNSURE: Final = "#888888"

CURVES: Final = {"one": ("vanilla-kd", "dskd", "dskd-v2"), "two": ("uld-hybrid", "min-edit", "dskd-cma")}
"""What stands in the picture of curves beside recommended arms."""

WIDEST: Final = 4.0
"""What is worse by more, in %, stands at the edge, with its number."""


def draw_all(found: Found, images: Path) -> list[str]:
    """Draw what there is to draw; of what is not measured yet there is no picture.

    Args:
        found: the results.
        images: the folder.

    Returns:
        The names of the pictures.
    """
    pictures = {
        "evidence_gains.png": draw_gains,
        "evidence_ablation.png": draw_ablation,
        "evidence_texts.png": draw_texts,
        "evidence_curves.png": draw_curves,
        **{f"evidence_search_{name}.png": partial(draw_search, vocabularies=name) for name in BY_VOCABULARIES},
    }
    for name, draw in pictures.items():
        (images / name).unlink(missing_ok=True)
        draw(found, images / name)
    return [name for name in pictures if (images / name).is_file()]


def draw_gains(found: Found, path: Path) -> None:
    """Draw how much better or worse the arms of the two main settings are than cross entropy alone.

    Args:
        found: the results.
        path: the PNG.
    """
    panels = {}
    for name in BY_VOCABULARIES:
        for source in (found, *found["others"]):
            setting = source["settings"].get(name, {"arms": {}})
            arms = [arm for arm in setting["arms"].values() if "ce" in arm["minus"]]
            rows = [
                (arm["title"], arm["minus"]["ce"], base_of(arm, "ce"), arm["recommended"])
                for arm in sorted(arms, key=lambda arm: arm["minus"]["ce"]["mean"])
            ]
            where = "" if source is found else f", on {source['machine']}"
            if rows:
                panels[f"{title(setting)}{where}: test loss minus that of cross entropy alone, %"] = rows
    _panels(panels, path)


def draw_ablation(found: Found, path: Path) -> None:
    """Draw what one part brings: the difference that it makes, pair by pair.

    Args:
        found: the results.
        path: the PNG.
    """
    panels: dict[str, list[Change]] = {}
    for pair in found["ablation"]:
        for row in pair["measured"]:
            where = "" if row["machine"] == found["machine"] else f", on {row['machine']}"
            where += "" if row["complete"] else ", not complete"
            label = f"{pair['setting']}: {pair['before']} \N{RIGHTWARDS ARROW} {pair['after']}{where}"
            name = f"{pair['part'].capitalize()}: change of the test loss, %"
            panels.setdefault(name, []).append((label, row["minus"], row["before"], False))
    note = f"; where no machine is named: {found['machine']}" if found["others"] else ""
    _panels(panels, path, note, widest=math.inf)


def _panels(panels: Mapping[str, Sequence[Change]], path: Path, note: str = "", *, widest: float = WIDEST) -> None:
    """Draw differences, one panel below the other.

    Args:
        panels: by title, from the top.
        path: the PNG. Without panels there is none.
        note: what is said below besides.
        widest: how much worse, in %, is still shown in its place.
    """
    if not panels:
        return
    heights = [len(rows) + 1 for rows in panels.values()]
    figure = _figure(10.0, 0.3 * sum(heights) + 0.6 * len(panels) + 0.6)
    grid = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
    for axes, (name, rows) in zip(grid[:, 0], panels.items(), strict=True):
        shown: list[float] = []
        for place, (_, minus, base, _) in enumerate(rows):
            values = [100 * value / base for value in minus["seeds"].values()]
            edges = [100 * edge / base for edge in minus["interval"] or ()]
            colour = _colour(min(values), max(values))
            axes.plot(edges, [place] * len(edges), color=colour, linewidth=1.5)
            axes.plot(values, [place] * len(values), "o", color=colour, markersize=4)
            if min(values) > widest:
                _at_edge(axes, place, 100 * minus["mean"] / base)
            shown += [*values, *edges]
        _percent(axes, shown, widest)
        _labels(axes, [_plain(label) for label, *_ in rows], [bold for *_, bold in rows])
        axes.set_title(name, fontsize=9)
    _save(figure, path, f"points: seeds; lines: 95 % over seeds and documents; green: better in every seed{note}")


def draw_texts(found: Found, path: Path) -> None:
    """Draw what a teacher brings over the number of texts: the loss, and its difference to cross entropy alone.

    Args:
        found: the results.
        path: the PNG.
    """
    columns = _columns(found, lambda of: "ce" in of["arms"])
    if not columns:
        return
    figure = _figure(5.5 * len(columns), 7.0)
    grid = figure.subplots(2, len(columns), squeeze=False, height_ratios=(3, 2))
    for (loss, gain), (name, settings) in zip(grid.T, columns.items(), strict=True):
        for number, (arm, label) in enumerate(over_texts(found, name).items()):
            points = [(of["texts"], of["arms"][arm]) for of in settings if arm in of["arms"]]
            points = [(texts, of) for texts, of in points if of["mean"] is not None]
            colour = COLOURS[number % len(COLOURS)]
            _with_range(loss, [(texts, list(of["test"].values())) for texts, of in points], colour, _plain(label))
            against = [(texts, of) for texts, of in points if "ce" in of["minus"]]
            _with_range(gain, [(texts, _percents(of)) for texts, of in against], colour, None)
        loss.set_ylabel("test, nats a byte", fontsize=8)
        loss.set_title(BY_VOCABULARIES[name], fontsize=9)
        loss.legend(fontsize=8)
        gain.set_ylabel("minus cross entropy alone, %", fontsize=8)
        for axes in (loss, gain):
            _scale(axes, "y", zero=axes is gain)
            axes.set_xscale("log")
            texts = sorted({of["texts"] for of in settings})
            axes.set_xticks(texts, [f"{each:,}" for each in texts], fontsize=8)
            axes.set_xticks([], minor=True)
    _save(figure, path, "training texts; points: means over seeds, lines: their range")


def draw_curves(found: Found, path: Path) -> None:
    """Draw over the steps how much better or worse students are than those of cross entropy alone at that step.

    Args:
        found: the results.
        path: the PNG.
    """
    columns = _columns(found, lambda of: "ce" in of["arms"] and len(of["arms"]) > 1)
    if not columns:
        return
    height = max(map(len, columns.values()))
    figure = _figure(5.5 * len(columns), 2.9 * height)
    grid = figure.subplots(height, len(columns), squeeze=False)
    for column, (name, settings) in zip(grid.T, columns.items(), strict=True):
        arms = over_texts(found, name)
        titles = {arm: of["title"] for setting in settings for arm, of in setting["arms"].items()}
        arms |= {arm: SHORT.get(arm, titles[arm]) for arm in CURVES[name] if arm in titles}
        colours = dict(zip(arms, COLOURS * len(arms), strict=False))
        for axes in column[len(settings) :]:
            axes.set_axis_off()
        for axes, setting in zip(column, settings, strict=False):
            _curves(axes, setting, [arm for arm in arms if arm != "ce"], colours)
        lines = [Line2D([], [], color=colours[arm], label=_plain(label)) for arm, label in arms.items() if arm != "ce"]
        column[0].legend(handles=lines, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.1))
    _save(
        figure,
        path,
        f"optimizer steps; lines: means over seeds, areas: their range; what is worse by more than {2 * WIDEST:g} % "
        "is not shown",
    )


def _curves(axes: Axes, setting: Found, arms: Sequence[str], colours: Mapping[str, str]) -> None:
    alone = setting["arms"]["ce"]["dev"]
    base = {seed: {row["step"]: row["nats_per_byte"] for row in rows} for seed, rows in alone.items()}
    shown: list[float] = []
    for arm in arms:
        of_seeds = setting["arms"].get(arm, {"dev": {}})["dev"]
        points: dict[int, list[float]] = {}
        for seed, rows in of_seeds.items():
            for row in rows:
                if row["step"] in base.get(seed, {}):
                    ratio = row["nats_per_byte"] / base[seed][row["step"]]
                    points.setdefault(row["step"], []).append(100 * (ratio - 1))
        if points:
            means = [statistics.fmean(values) for values in points.values()]
            shown += [edge for values in points.values() for edge in values]
            axes.plot(list(points), means, ".-", color=colours[arm], linewidth=1.3)
            axes.fill_between(
                list(points),
                [min(values) for values in points.values()],
                [max(values) for values in points.values()],
                color=colours[arm],
                alpha=0.15,
                linewidth=0,
            )
    _scale(axes, "y")
    low, high = min(shown, default=0.0), min(2 * WIDEST, max(shown, default=0.0))
    axes.set_ylim(min(low, 0.0) - 0.3, max(high, 0.0) + 0.3)
    losses = [row["nats_per_byte"] for row in next(iter(alone.values()), [])]
    of_ce = f"; cross entropy alone: {losses[0]:.3f} to {losses[-1]:.3f}" if losses else ""
    axes.set_title(f"{title(setting)}{of_ce}", fontsize=8)
    axes.set_ylabel("dev, minus cross entropy, %", fontsize=8)


def draw_search(found: Found, path: Path, *, vocabularies: str) -> None:
    """Draw all that was tried on the dev texts, the best way at the top.

    Args:
        found: the results.
        path: the PNG.
        vocabularies: ``"one"`` or ``"two"``.
    """
    rows = [row for row in found["search"] if row["setting"] == vocabularies and row["minus ce"] is not None]
    if not rows:
        return
    figure = _figure(9.0, 0.19 * len(rows) + 1.4)
    axes = figure.subplots()
    compared = found["settings"][vocabularies]["arms"].keys() | found["settings"][vocabularies]["not begun"]
    values = [100 * row["minus ce"] / (row["dev"] - row["minus ce"]) for row in rows]
    for place, (row, value) in enumerate(zip(rows, values, strict=True)):
        colour = _colour(value, value)
        face = colour if row["tuned"] else "#FFFFFF"
        axes.plot([value], [place], "o", color=colour, markerfacecolor=face, markersize=5)
        if value > WIDEST:
            _at_edge(axes, place, value)
    _percent(axes, values)
    _labels(axes, [row["title"] for row in rows], [row["arm"] in compared for row in rows])
    axes.set_title(
        f"{BY_VOCABULARIES[vocabularies]}: dev loss minus that of cross entropy alone, %, one seed\n"
        "filled: the rate is tuned; bold: compared on test text, too",
        fontsize=9,
    )
    _save(figure, path)


def _percent(axes: Axes, values: Sequence[float], widest: float = WIDEST) -> None:
    """Show differences in %, but not how much worse the worst are, which would squeeze all others."""
    _scale(axes, "x")
    low, high = min(*values, -0.1), min(max(*values, 0.1), widest)
    room = 0.06 * (high - low)
    axes.set_xlim(low - room, high + room)


def _scale(axes: Axes, along: Literal["x", "y"], *, zero: bool = True) -> None:
    """Show what differences are measured along: the line of no difference, a grid, and small numbers."""
    if zero:
        line = axes.axvline if along == "x" else axes.axhline
        line(0, color="#000000", linewidth=0.8)
    both = "x" if along == "x" else "both"
    axes.grid(axis=both, alpha=0.3)
    axes.tick_params(axis=both, labelsize=8)


def _at_edge(axes: Axes, place: float, value: float) -> None:
    axes.annotate(
        f"{value:+.1f} \N{RIGHTWARDS ARROW}",
        (1.0, place),
        xycoords=("axes fraction", "data"),
        xytext=(-3, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=7,
        color=WORSE,
    )


def _labels(axes: Axes, names: Sequence[str], bold: Sequence[bool]) -> None:
    """Name the rows, the first at the top."""
    axes.set_ylim(len(names) - 0.3, -0.7)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    for label, heavy in zip(axes.get_yticklabels(), bold, strict=True):
        label.set_fontweight("bold" if heavy else "normal")


def _percents(arm: Found) -> list[float]:
    base = base_of(arm, "ce") / 100
    return [value / base for value in arm["minus"]["ce"]["seeds"].values()]


def _with_range(axes: Axes, points: Sequence[tuple[int, Sequence[float]]], colour: str, label: str | None) -> None:
    """Draw means, and the range of the seeds."""
    at = [texts for texts, _ in points]
    axes.plot(
        at,
        [statistics.fmean(values) for _, values in points],
        "o-",
        color=colour,
        label=label,
        linewidth=1.5,
        markersize=4,
    )
    for texts, values in points:
        axes.plot([texts, texts], [min(values), max(values)], color=colour, linewidth=1, alpha=0.7)


def _plain(text: str) -> str:
    """Return a title without marks, short enough for a label."""
    return re.sub(r"[`*]", "", text)


def _figure(width: float, height: float) -> Any:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path, note: str | None = None) -> None:
    if note is not None:
        figure.supxlabel(note, fontsize=8)
    figure.savefig(path, dpi=100)


def _columns(found: Found, shown: Callable[[Found], bool]) -> dict[str, list[Found]]:
    """Return by vocabularies the settings that are shown; without those that have none."""
    columns = {name: [of for of in of_vocabularies(found, name).values() if shown(of)] for name in BY_VOCABULARIES}
    return {name: settings for name, settings in columns.items() if settings}


def _colour(low: float, high: float) -> str:
    """Return the colour of a difference, by its range."""
    return BETTER if high < 0 else WORSE if low > 0 else UNSURE
