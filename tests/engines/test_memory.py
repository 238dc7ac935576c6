"""What tensors take at once, as torch's allocator counts it: what the budget says, however many tokens there are."""

from __future__ import annotations

import mmap
from itertools import accumulate
from typing import TYPE_CHECKING

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dskd_components import DSKDLoss, DSKDSpec, Head, LMStates

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 2**20
STUDENT, TEACHER = (2000, 16), (6000, 48)
"""Vocabulary and width."""


def states(size: tuple[int, int], tokens: int, *, learns: bool) -> LMStates:
    vocabulary, width = size
    generator = torch.Generator(torch.get_default_device()).manual_seed(vocabulary)
    targets = torch.randint(0, vocabulary, (tokens // 64, 64), generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator).requires_grad_(learns)
    return LMStates(
        hidden_states=torch.randn(*targets.shape, width, generator=generator).requires_grad_(learns),
        targets=targets,
        head=Head(weight),
        input_ids=targets.roll(1, 1),
        embedding=weight.detach(),
    )


def peak(preset: str, tokens: int, budget: float) -> float:
    """MiB above inputs and gradients."""
    spec = DSKDSpec.preset(preset, engine={"name": "tiled", "memory_budget_mib": budget})
    loss_fn = DSKDLoss(spec, student_hidden_size=STUDENT[1], teacher_hidden_size=TEACHER[1])
    student = states(STUDENT if preset == "dskd-cma" else (TEACHER[0], STUDENT[1]), tokens, learns=True)
    teacher = states(TEACHER, tokens, learns=False)
    leaves = [student.hidden_states, student.head.weight, *loss_fn.parameters()]

    def step() -> None:
        loss_fn(student, teacher).loss.backward()

    if student.targets.is_cuda:
        step()  # libraries take memory of their own at their first calls
        for leaf in leaves:
            leaf.grad = None
    most = most_of_cuda(step) if student.targets.is_cuda else most_of_cpu(step)
    gradients = sum(leaf.grad.nbytes for leaf in leaves if leaf.grad is not None)
    return (most - gradients) / MIB


def most_of_cpu(step: Callable[[], None]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def most_of_cuda(step: Callable[[], None]) -> int:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("preset", ["dskd", "dskd-cma"])
def test_memory_keeps_to_the_budget_and_does_not_grow_with_tokens(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Scratch in large pages does not come from torch's allocator, and would not be counted.
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    peaks = [peak(preset, tokens, budget=6.0) for tokens in (256, 512, 1024)]
    assert max(peaks) <= 6.0
    assert max(peaks) <= 1.1 * min(peaks)
