"""The stage `runs` of `benchmarks.evidence` in processes that can be killed, none of which imports everything anew."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from benchmarks.evidence import pool
from benchmarks.evidence.__main__ import main
from tests.helpers.processes import TIMEOUT, forkserver, started

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import ForkServerProcess
    from pathlib import Path


class Parent:
    """A parent with two workers.

    Args:
        folder: prepared by a quick run.
        said: a file for what it prints.
    """

    def __init__(self, folder: Path, said: Path) -> None:
        self._said = said
        said.touch()
        self.process: ForkServerProcess = started(_train, folder, said)

    def wait_for(self, text: str) -> None:
        """Wait until it has said something."""
        _wait(lambda: text in self._said.read_text(), f"'{text}' in {self._said}")

    @property
    def workers(self) -> list[int]:
        """The process ids of the workers that it has started."""
        return [int(line.split()[1]) for line in self._said.read_text().splitlines() if line.startswith("worker ")]

    def kill(self) -> None:
        """Kill it, as ``kill -9`` does."""
        self.process.kill()
        self.process.join(TIMEOUT)


def _train(folder: Path, said: Path) -> None:
    start = pool.Pool._started
    with said.open("w", buffering=1) as output, contextlib.redirect_stdout(output):

        def said_start(self: pool.Pool) -> Any:
            worker = start(self)
            output.write(f"worker {worker.process.pid}\n")
            return worker

        pool.get_context = lambda _: forkserver()  # type: ignore[assignment]
        pool.Pool._started = said_start  # type: ignore[method-assign]
        main(["runs", "--quick", "--workers", "2", "--folder", str(folder)])


def _wait(happened: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + TIMEOUT
    while not happened():
        if time.monotonic() > until:
            raise TimeoutError(f"expected {what} within {TIMEOUT} seconds")
        time.sleep(0.01)
