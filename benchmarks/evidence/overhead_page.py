"""The picture and the tables of what `benchmarks.evidence.overhead` has found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

COLOURS: Final = {"ce": "#555555", "vanilla-kd": "#4477AA", "dskd": "#228833", "dskd-cma": "#EE6677"}

TITLES: Final = {"ce": "cross entropy alone", "vanilla-kd": "vanilla-kd", "dskd": "dskd", "dskd-cma": "dskd-cma"}

PARTS: Final = {"products": "#4477AA", "projections": "#CCBB44", "aligner": "#EE6677", "rest": "#BBBBBB"}


def measured_share(row: Mapping[str, Any], loss: str) -> float:
    """Return the share of a step that a loss takes.

    Args:
        row: of a measured pair.
        loss: ``ce``, or method and engine.
    """
    models = row["models"]
    others = models["student, forward and backward"] + models["optimizer"]
    if loss != "ce":
        others += models["teacher, forward"]
    return float(row["loss"][loss] / (row["loss"][loss] + others))


def step_over_ce(row: Mapping[str, Any], loss: str) -> float:
    """Return how many times a step of cross entropy alone a step takes.

    Args:
        row: of a measured pair.
        loss: method and engine.
    """
    models, losses = row["models"], row["loss"]
    student = models["student, forward and backward"] + models["optimizer"]
    return float((student + models["teacher, forward"] + losses[loss]) / (student + losses["ce"]))


def planned_share(row: Mapping[str, Any], method: str) -> float:
    """Return the share of a step that a loss takes, as worked out; of ``ce`` without the teacher.

    Args:
        row: of a pair.
        method: its name.
    """
    parts = row["vanilla-kd" if method == "ce" else method]
    of_loss = {name: value for name, value in parts.items() if name.startswith("loss")}
    others = sum(value for name, value in parts.items() if name not in of_loss)
    if method == "ce":
        loss = of_loss["loss: ce"]
        return float(loss / (loss + others - parts["teacher forward"]))
    return sum(of_loss.values()) / (sum(of_loss.values()) + others)


def parts_of(row: Mapping[str, Any], method: str) -> dict[str, float]:
    """Return seconds of the parts of a method's loss, by the engine ``tiled``; what is left is ``rest``.

    Args:
        row: of a measured pair.
        method: its name.
    """
    parts = {name: row["parts"].get(f"{method} {name}", 0.0) for name in ("products", "projections", "aligner")}
    return {**parts, "rest": row["loss"][f"{method} tiled"] - sum(parts.values())}


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draw shares over sizes, measured and worked out, and the parts of a loss.

    Args:
        found: all rows.
        path: the PNG.
    """
    figure = Figure(figsize=(15, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    here, parts, there = figure.subplots(1, 3, width_ratios=(1.25, 0.9, 1.1))
    names = list(dict.fromkeys(row["student"] for row in found["planned"]))
    for method, colour in COLOURS.items():
        for engine, style in (("tiled", "o-"), ("eager", "x:")) if method != "ce" else (("", "o-"),):
            loss = f"{method} {engine}".strip()
            values = [100 * measured_share(row, loss) for row in found["measured"]]
            label = f"{TITLES[method]}{f', {engine}' if engine else ''}"
            here.plot(range(len(values)), values, style, color=colour, label=label)
        of_cpu = [row for row in found["planned"] if row["device"] == "cpu"]
        values = [100 * planned_share(row, method) for row in of_cpu]
        here.plot(range(len(values)), values, "--", color=colour, linewidth=1, alpha=0.8)
    here.plot([], [], "--", color="#555555", linewidth=1, label="arithmetic, same machine")
    _finish(here, names, "This machine, float32: measured, and worked out beyond")
    here.legend(fontsize=8, frameon=False, ncols=1, loc="upper right")
    _draw_parts(parts, found)
    for device, style in (("h100", "--"), ("h100, TF32", ":")):
        rows = [row for row in found["planned"] if row["device"] == device]
        for method in ("ce", "vanilla-kd", "dskd-cma"):
            label = f"{TITLES[method]}{', TF32' if 'TF32' in device else ''}"
            values = [100 * planned_share(row, method) for row in rows]
            there.plot(range(len(values)), values, style, color=COLOURS[method], marker="o", mfc="none", label=label)
    _finish(there, names, "H100 by its data sheet, models in bfloat16: arithmetic only")
    there.legend(fontsize=8, frameon=False, loc="lower left")
    figure.savefig(path, dpi=95)


def _draw_parts(ax: Axes, found: Mapping[str, Any]) -> None:
    rows = found["measured"]
    bottom = [0.0] * len(rows)
    for part, colour in PARTS.items():
        heights = []
        for row in rows:
            whole = parts_of(row, "dskd-cma")
            heights.append(100 * max(0.0, whole[part]) / row["loss"]["dskd-cma tiled"])
        ax.bar(range(len(rows)), heights, bottom=bottom, color=colour, label=part, width=0.6)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    ax.set_xticks(range(len(rows)), [row["student"] for row in rows])
    ax.set_xlabel("student")
    ax.set_ylabel("share of the loss's time (%)")
    ax.set_title("dskd-cma, tiled: what the loss's time goes to", fontsize=10)
    ax.set_ylim(0, 132)
    ax.set_yticks(range(0, 101, 20))
    ax.legend(fontsize=8, frameon=False, ncols=2, loc="upper center")


def _finish(ax: Axes, names: list[str], title: str) -> None:
    ax.set_xticks(range(len(names)), names)
    ax.set_xlabel("student (Pythia; teacher about twice as large)")
    ax.set_ylabel("the loss's share of a step (%)")
    ax.set_ylim(0, 115)
    ax.set_yticks(range(0, 101, 20))
    ax.set_title(title, fontsize=10)
    ax.grid(alpha=0.3)


def share_table(found: Mapping[str, Any]) -> str:
    """Return the measured shares, and steps over those of cross entropy, in Markdown.

    Args:
        found: all rows.
    """
    losses = [f"{method} {engine}" for method in COLOURS if method != "ce" for engine in ("tiled", "eager")]
    heads = [f"`{loss.split()[0]}`, {loss.split()[1]}" for loss in losses]
    lines = [f"| student ← teacher | cross entropy | {' | '.join(heads)} |", "|---" * (2 + len(losses)) + "|"]
    for row in found["measured"]:
        cells = [f"{measured_share(row, loss):.0%} ({step_over_ce(row, loss):.1f} x)" for loss in losses]
        ce = f"{measured_share(row, 'ce'):.0%}"
        lines.append(f"| {row['student']} ← {row['teacher']} | {ce} | {' | '.join(cells)} |".replace("%", " %"))
    return "\n".join(lines)


def parts_table(found: Mapping[str, Any]) -> str:
    """Return what the losses' time goes to, in Markdown.

    Args:
        found: all rows.
    """
    lines = ["| student ← teacher | loss | products | projections | aligner | rest |", "|---" * 6 + "|"]
    for row in found["measured"]:
        for method in ("vanilla-kd", "dskd", "dskd-cma"):
            parts = parts_of(row, method)
            whole = row["loss"][f"{method} tiled"]
            cells = [f"{parts[name] / whole:.0%}".replace("%", " %") if parts[name] else "" for name in PARTS]
            lines.append(f"| {row['student']} ← {row['teacher']} | `{method}`, {whole:.2f} s | {' | '.join(cells)} |")
    return "\n".join(lines)


def planned_table(found: Mapping[str, Any]) -> str:
    """Return the shares that are worked out, in Markdown, beside those measured.

    Args:
        found: all rows.
    """
    measured = {row["student"]: row for row in found["measured"]}
    devices = list(dict.fromkeys(row["device"] for row in found["planned"]))
    head = " | ".join(f"`{method}`, {device}" for method in ("ce", "vanilla-kd", "dskd-cma") for device in devices)
    lines = [f"| student ← teacher | {head} |", "|---" * (1 + 3 * len(devices)) + "|"]
    for row in (row for row in found["planned"] if row["device"] == devices[0]):
        cells = []
        for method in ("ce", "vanilla-kd", "dskd-cma"):
            for device in devices:
                of = next(
                    each for each in found["planned"] if (each["student"], each["device"]) == (row["student"], device)
                )
                cell = f"{planned_share(of, method):.0%}"
                if device == "cpu" and row["student"] in measured:
                    loss = method if method == "ce" else f"{method} tiled"
                    cell += f" ({measured_share(measured[row['student']], loss):.0%})"
                cells.append(cell.replace("%", " %"))
        lines.append(f"| {row['student']} ← {row['teacher']} | {' | '.join(cells)} |")
    return "\n".join(lines)
