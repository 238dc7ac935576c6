"""``python -m benchmarks.loss_step``: time and memory of a loss step, as a table, JSON and a plot."""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import track

from benchmarks.loss_step import cases, report
from benchmarks.loss_step.accuracy import gradient_errors
from benchmarks.loss_step.case import Case
from benchmarks.loss_step.memory import Peak, peak_mib
from benchmarks.loss_step.timing import time_case
from dskd_components.engines.tiled import Tiled

if TYPE_CHECKING:
    from collections.abc import Iterator


Timed = list[tuple[Case, tuple[str, ...]]]


def time_all(timed: Timed, rounds: int) -> Iterator[dict[str, Any]]:
    """Time every case, and yield each as it comes; Liger takes part where it is installed."""
    installed = find_spec("liger_kernel") is not None
    for case, names in track(timed, description="time"):
        yield time_case(case, tuple(name for name in names if installed or not name.startswith("Liger")), rounds)


def timed_cases(options: argparse.Namespace) -> Timed:
    """Return the cases that are asked for."""
    wanted = cases.QUICK if options.quick else cases.TIMED
    return [
        (case, names) for case, names in wanted if not options.case or any(one in case.label for one in options.case)
    ]


def replaced(rows: list[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return rows with one of them measured anew, or with one more, in the order of the cases."""
    order = [case.label for case, _ in (*cases.QUICK, *cases.TIMED)]
    kept = [each for each in rows if each["case"] != row["case"]]
    return sorted([*kept, row], key=lambda each: order.index(each["case"]))


def measure_memory() -> list[dict[str, Any]]:
    """Measure peaks against tokens, against vocabulary, and beside Liger."""
    rows = []
    series = [("tokens", case) for case in cases.BY_TOKENS] + [("vocabulary", case) for case in cases.BY_VOCABULARY]
    for name, case in track(series, description="memory"):
        found = {"tiled": peak_mib(case, "tiled")}
        if case.budget is None and 3 * case.tokens * sum(case.vocabularies) * 4 * 4 < cases.TEXTBOOK_LIMIT:
            found["textbook"] = peak_mib(case, "textbook")
        rows.append(
            {
                "case": case.label,
                "series": name,
                "tokens": case.tokens,
                "vocabulary": case.vocabularies[1],
                "budget_mib": case.budget or Tiled().budget_bytes() / 2**20,
                **_peaks(found),
            }
        )
    if find_spec("liger_kernel") is not None:
        case = Case("js", 1024, cases.ONE)
        peaks = {name: peak_mib(case, name) for name in ("tiled", "Liger eager")}
        rows.append({"case": case.label, "series": "peer", **_peaks(peaks)})
    return rows


def _peaks(found: dict[str, Peak]) -> dict[str, dict[str, float | None]]:
    return {
        f"{measure}_mib": {name: getattr(peak, measure) for name, peak in found.items()} for measure in Peak._fields
    }


def main() -> None:
    """Measure, print tables, and write JSON and a plot if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two small cases, time only")
    parser.add_argument("--only", choices=("time", "memory", "bf16"), help="one part of it")
    parser.add_argument("--json", type=Path, help="write the numbers there; a plot of memory goes beside it")
    parser.add_argument("--case", action="append", help="time those whose label has this in it; the others stay")
    options = parser.parse_args()
    results: dict[str, Any] = {"benchmark": "loss_step", "machine": report.machine()}
    if options.json and options.json.exists() and options.only:
        results = json.loads(options.json.read_text(encoding="utf-8")) | results
    if options.only in (None, "time"):
        timed = results.get("time", []) if options.case else []
        for row in time_all(timed_cases(options), options.rounds):
            results["time"] = timed = replaced(timed, row)
            if options.json:
                options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if options.only in (None, "memory") and not options.quick:
        results["memory"] = measure_memory()
    if options.only in (None, "bf16") and not options.quick and find_spec("liger_kernel") is not None:
        results["bf16"] = gradient_errors(cases.GRADIENT_ERRORS)
    report.print_tables(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        if "memory" in results:
            report.plot(results, options.json.parent)


if __name__ == "__main__":
    main()
