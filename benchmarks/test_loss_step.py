"""The loss under pytest-benchmark: ``pytest benchmarks --benchmark-only``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks.loss_step import contestants
from benchmarks.loss_step.case import TEACHER_WIDTH, Case
from dskd_components import Head
from dskd_components.engines._tiling import head_products
from dskd_components.engines._tiling.products import CACHED_ROWS

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


@pytest.mark.parametrize("states", [256, 1024])
@pytest.mark.parametrize("rows", [32000, CACHED_ROWS])
def test_logits_of_a_head(benchmark: BenchmarkFixture, monkeypatch: pytest.MonkeyPatch, rows: int, states: int) -> None:
    """Time the logits of a tile, from all of a head in one product and from some rows of it at a time."""
    monkeypatch.setattr(head_products, "CACHED_ROWS", rows)
    head = Head(torch.randn(32000, TEACHER_WIDTH))
    products = head_products.HeadProducts(head, torch.float32, part_bytes=0)
    hidden, out = torch.randn(states, TEACHER_WIDTH), torch.empty(states, 32000)
    benchmark.group = f"logits of {states} states"
    benchmark.pedantic(products.logits, args=(hidden, out), rounds=5, warmup_rounds=1)
