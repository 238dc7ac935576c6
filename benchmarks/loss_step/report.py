"""Tables, JSON and plots of the results."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    versions = {"python": sys.version.split()[0]}
    for name in ("torch", "liger-kernel", "dskd-components"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {"cpu": _cpu(), "cores": os.cpu_count(), "versions": versions}


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def print_tables(results: dict[str, Any]) -> None:
    """Print what was measured."""
    console = Console()
    timed = Table(title="Time of a step over that of its bare matrix products: median of the rounds (range)")
    columns = ("tiled", "half gradients", "eager", "textbook", "Liger eager", "Liger compiled")
    for heading in ("case", "torch.mm, s", "fastest products", "tiled over these", *columns):
        timed.add_column(heading)
    for row in results.get("time", []):
        medians, ranges = row["median_ratio"], row["range_of_ratios"]
        cells = [
            f"{medians[name]:.2f} ({ranges[name][0]:.2f} to {ranges[name][1]:.2f})" if name in medians else ""
            for name in columns
        ]
        fastest = row.get("fastest_products")  # older results have none
        over = f"{medians['tiled'] / fastest:.2f}" if fastest and "tiled" in medians else ""
        timed.add_row(row["case"], f"{row['bare_seconds'][1]:.2f}", f"{fastest or 1:.2f}", over, *cells)
    if results.get("time"):
        console.print(timed)
    peaks = Table(title="Peak memory of a step above inputs and gradients, MiB: tensors (resident)")
    names = sorted({name for row in results.get("memory", []) for name in row["allocated_mib"]}, reverse=True)
    for heading in ("case", *names):
        peaks.add_column(heading)
    for row in results.get("memory", []):
        cells = [(row["allocated_mib"].get(name), row["resident_mib"].get(name)) for name in names]
        peaks.add_row(row["case"], *(_peak(tensors, process) for tensors, process in cells))
    if results.get("memory"):
        console.print(peaks)
    if results.get("bf16"):
        console.print(results["bf16"])
    console.print(results["machine"])


def _peak(tensors: float | None, process: float | None) -> str:
    found = "" if tensors is None else f"{tensors:.0f}"
    return found if process is None else f"{found} ({process:.0f})"


def plot(results: dict[str, Any], folder: Path) -> None:
    """Draw peak memory against tokens and against vocabulary."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    for ax, series, label in zip(
        axes,
        ("tokens", "vocabulary"),
        ("tokens (dskd-cma, 50k/152k)", "vocabulary (dskd, 512 tokens)"),
        strict=True,
    ):
        rows = [row for row in results["memory"] if row["series"] == series]
        for budget in sorted({row["budget_mib"] for row in rows}, reverse=True):
            within = [row for row in rows if row["budget_mib"] == budget]
            ax.plot(*_points(within, series, "tiled"), "o-", label=f"tiled, a budget of {budget:.0f} MiB")
        ax.plot(*_points(rows, series, "textbook"), "ko--", label="textbook")
        ax.set(xlabel=label, yscale="log", ylabel="peak of tensors above inputs and gradients, MiB")
        ax.legend()
        ax.grid(alpha=0.3)
    figure.savefig(folder / "loss_step_memory.png", dpi=110)
    plt.close(figure)


def _points(rows: list[dict[str, Any]], series: str, name: str) -> tuple[list[int], list[float]]:
    """Return sizes and peaks of one contestant, where its step fitted into the machine."""
    measured = [row for row in rows if row["allocated_mib"].get(name)]
    return [row[series] for row in measured], [row["allocated_mib"][name] for row in measured]
