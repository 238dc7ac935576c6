"""The rows of runs, on disk as they come."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any, Final

from benchmarks.evidence.plan import Run

if TYPE_CHECKING:
    from pathlib import Path

Row = dict[str, Any]

WRITTEN_EVERY: Final = 1.0
"""Seconds: steps that are shorter are written together."""


class Journal:
    """The rows of one run, a line of JSON each.

    Args:
        file: of the run.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._waiting: list[Row] = []
        self._written = time.monotonic()
        self.rows: list[Row] = []
        if file.is_file():
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    self.rows.append(json.loads(line))
                except json.JSONDecodeError:  # cut by a kill, so the last one
                    break

    @property
    def end(self) -> Row | None:
        """The last row of a run that is finished; None: it is not."""
        return self.rows[-1] if self.rows and self.rows[-1]["kind"] == "end" else None

    def back_to(self, step: int) -> None:
        """Forget what came after a step.

        Args:
            step: how many optimizer steps had been taken.
        """
        self.rows = [row for row in self.rows if row["step"] <= step] if step else []
        self._waiting = []
        unfinished = self._file.with_suffix(".unfinished")
        unfinished.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
        unfinished.replace(self._file)

    def add(self, row: Row) -> None:
        """Write a row; one of a step may wait for the next ones.

        Args:
            row: the row; it has ``kind`` and ``step``.
        """
        self.rows.append(row)
        self._waiting.append(row)
        if row["kind"] == "step" and time.monotonic() - self._written < WRITTEN_EVERY:
            return
        with self._file.open("a", encoding="utf-8") as opened:
            opened.write("".join(json.dumps(each) + "\n" for each in self._waiting))
            opened.flush()
            os.fsync(opened.fileno())
        self._waiting, self._written = [], time.monotonic()


def journals(folder: Path) -> dict[Run, Journal]:
    """Return the rows of all runs that have begun.

    Args:
        folder: of the runs.
    """
    found = {}
    for file in sorted(folder.glob("*.jsonl")):
        journal = Journal(file)
        if journal.rows:
            start = journal.rows[0]
            found[Run(start["setting"], start["arm"], start["lr"], start["seed"])] = journal
    return found


def dev_scores(found: dict[Run, Journal]) -> dict[Run, float]:
    """Return nats per byte of the dev texts at the end of each run that is finished.

    Args:
        found: of `journals`.
    """
    return {
        run: next(row["nats_per_byte"] for row in reversed(journal.rows) if row["kind"] == "dev")
        for run, journal in found.items()
        if journal.end is not None
    }
