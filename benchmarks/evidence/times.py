"""What a step costs: that of each arm alone, on one thread of a CPU, by the time that the process computes."""

from __future__ import annotations

import json
import statistics
import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from benchmarks.evidence.arms import arms_of
from benchmarks.evidence.bench import Bench
from benchmarks.evidence.journal import Journal
from benchmarks.evidence.plan import Run, vocabularies
from benchmarks.evidence.training import Training

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.evidence.plan import Plan, SettingName
    from benchmarks.evidence.queue import Order

FILE: Final = "times.json"

WARM: Final = 2
"""Steps that are not counted."""

MEASURED: Final = 8
"""Steps that are."""

SEED: Final = -1
"""Of no run, so that nothing of a run is read or written."""


def measure_times(folder: Path, plan: Plan, order: Order, say: Callable[[str], None]) -> None:
    """Measure a step of each arm, once for one vocabulary and once for two; go on where it was stopped.

    Settings of one vocabulary share their arms, and so do those of two: the first setting of each stands for all.

    Args:
        folder: as of `Bench`, prepared.
        plan: what runs have; the batch size and the texts are its.
        order: the arms.
        say: takes a line for each arm.

    Raises:
        SystemExit: times of another machine are there, which would not compare.
    """
    # No step is the last one, so no student is measured and no checkpoint written.
    longer = replace(plan, steps=2 * (WARM + MEASURED), plentiful_steps=2 * (WARM + MEASURED), evaluations=1)
    bench = Bench(folder, longer, "cpu")
    rows: list[dict[str, Any]] = bench.read(FILE) or []
    others = sorted({row["machine"] for row in rows} - {bench.machine})
    if others:
        raise SystemExit(f"{folder / FILE}: was measured on '{others[0]}', this is '{bench.machine}'. Remove the file.")
    done = {(row["vocabularies"], row["arm"]) for row in rows}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for setting, arm in _arms(order):
            key = vocabularies(setting), arm
            if key not in done:
                done.add(key)
                seconds = _seconds(bench, key[0], arm)
                rows.append({"vocabularies": key[0], "arm": arm, "seconds": seconds, "machine": bench.machine})
                _write(folder / FILE, rows)
                say(f"a step of {arm}, vocabularies: {key[0]}: {statistics.median(seconds):.3f} s")
    finally:
        torch.set_num_threads(threads)


def _arms(order: Order) -> list[tuple[SettingName, str]]:
    """Return all arms, cross entropy alone first."""
    arms = [(setting, arm) for setting, names in order for arm in names]
    return sorted(arms, key=lambda pair: pair[1] != "ce")


def _seconds(bench: Bench, setting: SettingName, name: str) -> list[float]:
    arm = arms_of(setting)[name]
    run = Run(setting, name, bench.plan.first_lr[setting], SEED)
    with tempfile.TemporaryDirectory() as unused:
        journal = Journal(Path(unused) / "rows.jsonl")
        for _ in islice(Training(bench, run, replace(arm, longer=1.0), journal).steps(), WARM + MEASURED):
            pass
    return [row["seconds"] for row in journal.rows if row["kind"] == "step"][WARM:]


def _write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")
    unfinished.replace(file)


def costs(rows: Sequence[dict[str, Any]] | None) -> dict[str, Any]:
    """Return what was measured, as seconds and as multiples of a step of cross entropy alone.

    Args:
        rows: of the file; None: nothing was measured.

    Returns:
        ``machine``, and by vocabularies and arm ``seconds``, the median of the steps, and ``ratio``, the median of the
        steps' ratios, since each step has the same texts in all arms.
    """
    found: dict[str, Any] = {"machine": rows[0]["machine"] if rows else None, "one": {}, "two": {}}
    base = {row["vocabularies"]: row["seconds"] for row in rows or () if row["arm"] == "ce"}
    for row in rows or ():
        own, alone = row["seconds"], base.get(row["vocabularies"])
        ratio = None if alone is None else statistics.median(a / b for a, b in zip(own, alone, strict=True))
        found[row["vocabularies"]][row["arm"]] = {"seconds": statistics.median(own), "ratio": ratio}
    return found
