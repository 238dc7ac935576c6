"""Step times as ratios to the bare matrix products, in interleaved rounds of one process."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from benchmarks.clock import seconds
from benchmarks.loss_step import contestants

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.loss_step.case import Case


def time_case(case: Case, names: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """Time the bare products and the contestants on one case.

    A ratio is taken within a round, and the median of the rounds is reported, so that a busy machine weighs on all.
    """
    student, teacher = case.states()
    works: dict[str, Callable[[], object]] = {"bare": contestants.bare_products(case, student, teacher)}
    for name in names:
        if name.startswith("Liger"):
            works[name] = contestants.liger(student, teacher, compiled=name.endswith("compiled"))
        elif name == "textbook":
            works[name] = contestants.textbook(case, student, teacher)
        else:
            works[name] = contestants.library(case, name, student, teacher)
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(seconds(work))
    return {
        "case": case.label,
        "scored_tokens": [int(student.scored.sum()), int(teacher.scored.sum())],
        "bare_seconds": round(statistics.median(times["bare"]), 3),
        "ratio_to_bare": {
            name: round(statistics.median(a / b for a, b in zip(times[name], times["bare"], strict=True)), 3)
            for name in names
        },
    }
