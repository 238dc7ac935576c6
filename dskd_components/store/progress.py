"""A progress bar for a build: samples, tokens a second, bytes, and the time that is left."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dskd_components.store.build import BuildProgress

SIZES = ("B", "kB", "MB", "GB", "TB", "PB")


def in_bytes(count: float) -> str:
    """Return a number of bytes for people.

    Args:
        count: the number.

    Examples:
        >>> in_bytes(999), in_bytes(1_500_000), in_bytes(2.5e13)
        ('999 B', '1.5 MB', '25.0 TB')
    """
    power = 0
    while count >= 1000 and power < len(SIZES) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.1f} {SIZES[power]}" if power else f"{count:.0f} B"


def described(progress: BuildProgress) -> str:
    """Return how far a build is in a line.

    Args:
        progress: of the build.

    Examples:
        >>> import time
        >>> from dskd_components.store.build import BuildProgress
        >>> described(BuildProgress(tokens=5000, states=4000, bytes=4_608_000, started=time.monotonic() - 10))
        '500 tokens/s, 4.6 MB'
    """
    speed = progress.tokens / max(progress.seconds, 1e-9)
    return f"{speed:,.0f} tokens/s, {in_bytes(progress.bytes)}"


@contextmanager
def shown(
    progress: bool | Callable[[BuildProgress], None],
) -> Iterator[Callable[[BuildProgress], None] | None]:
    """Give what is to be called as a build goes on.

    Args:
        progress: whether to show a bar, if there is a terminal; or what to call instead.
    """
    if not isinstance(progress, bool):
        yield progress
        return
    if not progress:
        yield None
        return
    # Only now: importing the library must stay light.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("samples"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("samples", total=None, speed="")

        def watch(now: BuildProgress) -> None:
            bar.update(task, completed=now.samples, total=now.total, speed=described(now))

        yield watch
