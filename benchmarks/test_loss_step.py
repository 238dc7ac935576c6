"""The loss under pytest-benchmark: ``pytest benchmarks --benchmark-only``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.loss_step import contestants
from benchmarks.loss_step.case import Case

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

CASES = [Case("dskd", 256, (8000, 8000)), Case("dskd-cma", 256, (8000, 12000)), Case("js", 256, (8000, 8000))]


def step_of(case: Case, contestant: str) -> Callable[[], object]:
    """The step of a contestant."""
    student, teacher = case.states()
    if contestant == "bare":
        return contestants.bare_products(case, student, teacher)
    if contestant == "textbook":
        return contestants.textbook(case, student, teacher)
    return contestants.library(case, contestant, student, teacher)


@pytest.mark.parametrize("contestant", ["bare", "tiled", "eager", "textbook"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.method)
def test_step(benchmark: BenchmarkFixture, case: Case, contestant: str) -> None:
    """Time a step."""
    benchmark.group = case.label
    benchmark.pedantic(step_of(case, contestant), rounds=5, warmup_rounds=1)
