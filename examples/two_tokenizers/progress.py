"""Progress bars, one for each phase."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console
    from torch import Tensor


def phases(console: Console) -> Progress:
    """Return the display that holds the bars of all phases."""
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:5.2f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def with_bar(
    progress: Progress, description: str, steps: Iterable[dict[str, Tensor]], total: int
) -> Iterator[dict[str, Tensor]]:
    """Yield the steps on, with a bar that shows their loss."""
    task = progress.add_task(description, total=total, loss=float("nan"))
    for step in steps:
        yield step
        progress.update(task, advance=1, loss=float(step["loss"]))
