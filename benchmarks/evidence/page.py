"""The tables and pictures of the page of evidence, made of what the runs have found."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

TITLES: Final = {
    "one": "One vocabulary",
    "two": "Two vocabularies",
    "scarce": "Two vocabularies, 160 texts, five times over",
    "few": "Two vocabularies, 400 texts, twice over",
    "plentiful": "Two vocabularies, 2,400 texts, once",
    "scarce-one": "One vocabulary, 160 texts, five times over",
    "few-one": "One vocabulary, 400 texts, twice over",
    "plentiful-one": "One vocabulary, 2,400 texts, once",
}

COLOURS: Final = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB", "#000000")

CURVES: Final = {
    "one": ("ce", "vanilla-kd", "dskd", "dskd-heads", "dskd-v2", "dskd-vanilla"),
    "two": ("ce", "dskd-cma", "uld-hybrid", "exact-linear", "exact-heads", "cma-shared"),
    "scarce": ("ce", "dskd-cma", "uld-hybrid", "exact-heads"),
    "plentiful": ("ce", "dskd-cma", "uld-hybrid", "exact-heads"),
}
"""The arms of the picture of curves."""


def table(setting: Mapping[str, Any]) -> str:
    """Return the table of a setting, the best arm first.

    Args:
        setting: of the results.
    """
    arms = sorted(setting["arms"].values(), key=lambda arm: arm["mean"])
    lines = [
        "| learned from | nats a byte, test | minus cross entropy alone, seed by seed | 95 % | tokens right | rate | "
        "seconds a step |",
        "|---|---|---|---|---|---|---|",
        *(_row(arm) for arm in arms),
    ]
    return "\n".join(lines) if arms else "No run is finished."


def _row(arm: Mapping[str, Any]) -> str:
    against = arm["minus"].get("ce")
    seeds, interval = "", ""
    if against is not None:
        seeds = ", ".join(f"{value:+.4f}" for value in against["seeds"].values())
        low, high = against["interval"]
        interval = f"{low:+.4f} to {high:+.4f}"
    rate = f"{arm['lr']:.2g}" + ("" if arm["tuned"] else ", not tuned yet")
    runs = "" if not arm["seeds missing"] else f" ({len(arm['test'])} seed{'s' * (len(arm['test']) > 1)})"
    return (
        f"| {arm['title']} | {arm['mean']:.4f}{runs} | {seeds} | {interval} | {100 * arm['accuracy']:.2f} % | {rate} | "
        f"{arm['seconds a step']:.2f} |"
    )


MEANING: Final = {
    "projected loss": "{:.2f}",
    "projected right": "{:.1%}",
    "student loss": "{:.2f}",
    "student right": "{:.1%}",
    "aligned": "{:.1%}",
    "neighbours": "{:.1%}",
    "round trip": "{:.1%}",
    "cosine": "{:.3f}",
    "inner product": "{:.2e}",
    "cka": "{:.3f}",
}
"""The columns of the tables of meaning, by the names of their numbers."""


def meaning_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table of what projections keep.

    Args:
        rows: by arm, or ``start`` and ``random``.
    """
    if not rows:
        return "Not measured yet."
    titles = {"start": "*before training, from the heads*", "random": "*before training, random*"}
    lines = [f"| after | {' | '.join(MEANING)} |", "|---" * (1 + len(MEANING)) + "|"]
    for name, row in rows.items():
        cells = [form.format(row[key]) if key in row else "" for key, form in MEANING.items()]
        lines.append(f"| {titles.get(name, f'`{name}`')} | {' | '.join(cells)} |")
    one = next(iter(rows.values()))
    lines += [
        "",
        f"The teacher itself: {one['teacher loss']:.2f} nats a token, {one['teacher right']:.1%} right, at the same "
        f"{one['positions']:,.0f} positions.",
    ]
    return "\n".join(lines)


def fill(page: Path, found: Mapping[str, Any]) -> None:
    """Write the tables into the page, between the comments ``<!-- table NAME -->`` and ``<!-- end -->``.

    Args:
        page: the page.
        found: the results.

    Raises:
        SystemExit: the page has no place for a table.
    """
    parts = {f"table {name}": table(setting) for name, setting in found["settings"].items()}
    parts |= {f"meaning {name}": meaning_table((found["meaning"] or {}).get(name, {})) for name in ("one", "two")}
    parts["state"] = state(found)
    fill_places(page, parts)


def fill_places(page: Path, parts: Mapping[str, str]) -> None:
    """Write texts into a page, each between the comments ``<!-- NAME -->`` and ``<!-- end -->``.

    Args:
        page: the page.
        parts: by name.

    Raises:
        SystemExit: the page has no place for one.
    """
    text = page.read_text(encoding="utf-8")
    for name, content in parts.items():
        text, times = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda match, content=content: f"{match[1]}\n{content}\n\n{match[2]}",
            text,
            flags=re.DOTALL,
        )
        if not times:
            raise SystemExit(f"{page}: expected a place for '{name}': <!-- {name} --> and, below, <!-- end -->.")
    page.write_text(text, encoding="utf-8")


def state(found: Mapping[str, Any]) -> str:
    """Return what is complete and what is not.

    Args:
        found: the results.
    """
    plan, lines = found["plan"], []
    for name, setting in found["settings"].items():
        arms = setting["arms"]
        whole = [arm for arm, of in arms.items() if of["tuned"] and not of["seeds missing"]]
        partly = [arm for arm in arms if arm not in whole]
        parts = [
            f"{title} {', '.join(f'`{arm}`' for arm in some)}"
            for title, some in (("complete:", whole), ("begun:", partly), ("not begun:", setting["not begun"]))
            if some
        ]
        lines.append(f"- {TITLES[name]}: {'; '.join(parts)}.")
    seeds = 0 if plan is None else len(plan["seeds"])
    return "\n".join(
        (
            f"{found['runs']} runs, {found['training hours']:.1f} hours of training on one thread. An arm is complete "
            f"with its rate tuned and {seeds} seeds.",
            "",
            *lines,
        )
    )


def draw_gains(found: Mapping[str, Any], path: Path) -> None:
    """Draw how much better or worse each arm is than cross entropy alone.

    Args:
        found: the results.
        path: the PNG.
    """
    rows = {
        name: sorted(
            (arm for arm in setting["arms"].values() if "ce" in arm["minus"]),
            key=lambda arm: -arm["minus"]["ce"]["mean"],
        )
        for name, setting in found["settings"].items()
    }
    rows = {name: arms for name, arms in rows.items() if arms}
    if not rows:
        return
    heights = [len(arms) + 1 for arms in rows.values()]
    figure = _figure(9.5, 0.3 * sum(heights) + 1.2 * len(rows))
    for axes, (name, arms) in zip(_column(figure, heights), rows.items(), strict=True):
        base = found["settings"][name]["arms"]["ce"]["mean"]
        for place, arm in enumerate(arms):
            minus = arm["minus"]["ce"]
            colour = "#228833" if minus["to"] < 0 else "#EE6677" if minus["from"] > 0 else "#888888"
            low, high = (100 * edge / base for edge in minus["interval"])
            axes.plot([low, high], [place, place], color=colour, linewidth=1.5)
            axes.plot(
                [100 * value / base for value in minus["seeds"].values()],
                [place] * len(minus["seeds"]),
                "o",
                color=colour,
                markersize=4,
            )
        axes.axvline(0, color="#000000", linewidth=0.8)
        axes.set_yticks(range(len(arms)), [_plain(arm["title"]) for arm in arms], fontsize=8)
        axes.set_title(f"{TITLES[name]}: test loss minus that of cross entropy alone, %", fontsize=9)
        axes.grid(axis="x", alpha=0.3)
    figure.supxlabel("points: seeds; lines: 95 % over seeds and documents; green: better in every seed", fontsize=8)
    figure.savefig(path, dpi=100)


def draw_curves(found: Mapping[str, Any], path: Path) -> None:
    """Draw the loss of the dev texts over steps and over seconds.

    Args:
        found: the results.
        path: the PNG.
    """
    rows = [name for name, setting in found["settings"].items() if setting["arms"] and name in CURVES]
    if not rows:
        return
    figure = _figure(11.0, 3.4 * len(rows))
    grid = figure.subplots(len(rows), 2, squeeze=False)
    for axes, name in zip(grid, rows, strict=True):
        arms = found["settings"][name]["arms"]
        for colour, arm in zip(COLOURS, (arm for arm in CURVES[name] if arm in arms), strict=False):
            _curve(axes[0], arms[arm], "step", colour)
            _curve(axes[1], arms[arm], "seconds", colour)
        for each, label in zip(axes, ("optimizer steps", "seconds of training, one thread"), strict=True):
            each.set_title(TITLES[name], fontsize=9)
            each.set_xlabel(label, fontsize=8)
            each.set_ylabel("dev, nats a byte", fontsize=8)
            each.grid(alpha=0.3)
        axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=100)


def _curve(axes: Axes, arm: Mapping[str, Any], over: str, colour: str) -> None:
    for number, rows in enumerate(arm["dev"].values()):
        # The first quarter would squeeze all that is worth seeing.
        shown = rows[1:]
        label = _plain(arm["title"]) if number == 0 else None
        axes.plot(
            [row[over] for row in shown],
            [row["nats_per_byte"] for row in shown],
            ".-",
            color=colour,
            label=label,
            linewidth=1,
        )


def _plain(title: str) -> str:
    return title.replace("`", "")


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _column(figure: Figure, heights: Sequence[int]) -> list[Axes]:
    return list(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
