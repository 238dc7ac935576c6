"""Projectors that are made from heads: what they take to build, to keep, and in each step."""

from __future__ import annotations

import mmap
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dskd_components import DSKDLoss, DSKDSpec, Head, LMStates, ProjectorHeads, get_projector

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 2**20
STUDENT, TEACHER = (6000, 64), (6250, 256)
"""Vocabulary and width: heads of 1.5 and 6 MiB in float32."""


def peak(call: Callable[[], Any]) -> float:
    """MiB that a call holds at most, as torch's allocator counts it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(accumulate(changes), default=0) / MIB


def heads(*, one_vocabulary: bool, dtype: torch.dtype, wider: bool = False) -> tuple[Head, Head]:
    (_, student), (rows, teacher) = STUDENT, TEACHER
    if wider:
        student, teacher = teacher, student
    return of_sizes((rows if one_vocabulary else STUDENT[0], student), (rows, teacher), dtype)


def of_sizes(student: tuple[int, int], teacher: tuple[int, int], dtype: torch.dtype) -> tuple[Head, Head]:
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    first, second = (torch.randn(size, generator=generator).to(dtype) for size in (student, teacher))
    return Head(first), Head(second)


def built(student: Head, teacher: Head, *, one_vocabulary: bool, engine: Any = "tiled") -> DSKDLoss:
    mapping = None
    if not one_vocabulary:
        ids = torch.arange(teacher.vocabulary_size)
        mapping = ids.where(ids % 3 > 0, -1).where(ids < student.vocabulary_size, -1)
    return DSKDLoss(
        DSKDSpec.preset("dskd-v2" if one_vocabulary else "dskd-v2-eta", engine=engine),
        student_hidden_size=student.hidden_size,
        teacher_hidden_size=teacher.hidden_size,
        student_head=student,
        teacher_head=teacher,
        teacher_to_student_ids=mapping,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("one_vocabulary", [True, False])
def test_building_takes_no_more_for_larger_heads(one_vocabulary: bool, dtype: torch.dtype) -> None:
    """But for the ids of the shared tokens."""
    found = []
    for rows in (5000, 20000):
        ends = of_sizes((rows, 32), (rows, 64), dtype)
        found.append(peak(lambda ends=ends: built(*ends, one_vocabulary=one_vocabulary)))
    assert found[1] - found[0] <= 15000 * 64 / MIB


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("projector", ["linear", "mlp"])
def test_random_weights_are_scaled_to_heads_of_any_size(projector: str, dtype: torch.dtype) -> None:
    found = []
    for rows in (20000, 80000):
        source, target = of_sizes((rows, 32), (rows, 64), dtype)
        heads = ProjectorHeads(source=source, target=target)
        options = {"source_size": 32, "target_size": 64, "heads": heads}
        found.append(peak(lambda options=options: get_projector(projector).build(**options)))
    assert found[1] <= found[0] + 0.1


@pytest.mark.parametrize("one_vocabulary", [True, False])
def test_nothing_of_the_size_of_a_head_is_kept_or_sent_to_other_ranks(one_vocabulary: bool) -> None:
    loss_fn = built(*heads(one_vocabulary=one_vocabulary, dtype=torch.float32), one_vocabulary=one_vocabulary)
    assert list(loss_fn.projectors.buffers()) == []
    live = loss_fn.projectors["s2t"]
    assert 0 < live.constant_bytes <= 4 * (TEACHER[1] + 32) * TEACHER[1]
    held = sum(value.nbytes for value in vars(live).values() if isinstance(value, torch.Tensor))
    assert live.constant_bytes == held


def step(loss_fn: DSKDLoss, student: Head, teacher: Head, tokens: int) -> tuple[Callable[[], None], Callable[[], int]]:
    """A step, and how many bytes its gradients take."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(1)
    targets = torch.randint(
        0, min(student.vocabulary_size, teacher.vocabulary_size), (tokens // 32, 32), generator=generator
    )

    def states(head: Head, *, learns: bool) -> LMStates:
        hidden = torch.randn(*targets.shape, head.hidden_size, generator=generator).requires_grad_(learns)
        return LMStates(hidden_states=hidden, targets=targets, head=Head(head.weight.detach().requires_grad_(learns)))

    ours, theirs = states(student, learns=True), states(teacher, learns=False)
    alignment = None if loss_fn.spec.aligner.same_tokenizer else torch.arange(32).expand(tokens // 32, 32)

    def run() -> None:
        loss = loss_fn(ours, theirs, alignment=alignment).loss
        if loss.requires_grad:
            loss.backward()

    def gradients() -> int:
        leaves = [ours.hidden_states, ours.head.weight, *loss_fn.parameters()]
        return sum(leaf.grad.nbytes for leaf in leaves if leaf.grad is not None)

    return run, gradients


BUDGET = 2.5


@pytest.mark.parametrize("wider", [False, True], ids=["wider teacher", "wider student"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("one_vocabulary", [True, False])
def test_a_step_keeps_to_the_budget(
    one_vocabulary: bool, dtype: torch.dtype, wider: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Scratch in large pages does not come from torch's allocator, and would not be counted.
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    ends = heads(one_vocabulary=one_vocabulary, dtype=dtype, wider=wider)
    loss_fn = built(*ends, one_vocabulary=one_vocabulary, engine={"name": "tiled", "memory_budget_mib": BUDGET})
    run, gradients = step(loss_fn, *ends, tokens=64)
    with torch.no_grad():
        assert peak(run) <= BUDGET
    found = peak(run)
    # A head's gradient is summed in float32, whatever it is handed on in.
    summed = ends[0].weight.numel() * 4 / MIB if dtype != torch.float32 else 0.0
    assert found - gradients() / MIB - summed <= BUDGET


def test_the_map_of_a_step_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 240 by 480 numbers it takes nearly a third of this budget, so tiles have to leave room for it."""
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    ends = of_sizes((6000, 240), (6000, 480), torch.float32)
    loss_fn = built(*ends, one_vocabulary=True, engine={"name": "tiled", "memory_budget_mib": 1.5})
    run, _ = step(loss_fn, *ends, tokens=64)
    with torch.no_grad():
        assert peak(run) <= 1.5
