"""Step times as ratios to the bare matrix products, in interleaved rounds of one process."""

from __future__ import annotations

import math
import os
import statistics
from typing import TYPE_CHECKING, Any

from benchmarks.clock import seconds
from benchmarks.loss_step import contestants
from dskd_components.engines.tiled import Tiled

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.loss_step.case import Case


def time_case(case: Case, names: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """Time the bare products and the contestants on one case.

    Each step is compared to the mean of the bare products right before and right after it, so that a machine which
    grows slower or faster weighs on both. Reported are the ratio of the fastest times, which other work on the machine
    disturbs least, the median of the rounds' ratios, and the least and the largest of these; ``fastest_products`` is
    that median for the same products by the fastest kernels, which ``kernels`` names.
    ``load`` is that of the machine when the case began.
    """
    load = os.getloadavg()[0]
    student, teacher = case.states()
    bare = contestants.bare_products(case, student, teacher)
    fastest_kernels = contestants.fastest_products(case, student, teacher)
    works: dict[str, Callable[[], object]] = {}
    for name in names:
        if name.startswith("Liger"):
            works[name] = contestants.liger(student, teacher, compiled=name.endswith("compiled"))
        elif name == "textbook":
            works[name] = contestants.textbook(case, student, teacher)
        else:
            works[name] = contestants.library(case, name, student, teacher)
    for work in (bare, fastest_kernels, *works.values()):
        work()
    ratios: dict[str, list[float]] = {name: [] for name in works}
    fastest = dict.fromkeys(works, math.inf)
    bare_times = [seconds(bare)]
    of_kernels: list[float] = []
    for _ in range(rounds):
        time = seconds(fastest_kernels)
        bare_times.append(seconds(bare))
        of_kernels.append(time / statistics.mean(bare_times[-2:]))
        for name, work in works.items():
            time = seconds(work)
            bare_times.append(seconds(bare))
            ratios[name].append(time / statistics.mean(bare_times[-2:]))
            fastest[name] = min(fastest[name], time)
    return {
        "case": case.label,
        "scored_tokens": [int(student.scored.sum()), int(teacher.scored.sum())],
        "rounds": rounds,
        "load": round(load, 2),
        "bare_seconds": [round(min(bare_times), 3), round(statistics.median(bare_times), 3), round(max(bare_times), 3)],
        "ratio_of_fastest": {name: round(time / min(bare_times), 3) for name, time in fastest.items()},
        "median_ratio": {name: round(statistics.median(found), 3) for name, found in ratios.items()},
        "fastest_products": round(statistics.median(of_kernels), 3),
        "kernels": Tiled().kernels(),
        "range_of_ratios": {name: [round(min(found), 3), round(max(found), 3)] for name, found in ratios.items()},
    }
