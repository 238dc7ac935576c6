"""What is stated of memory is what steps of training are seen to take, within 15 %, whatever learns and however."""

from __future__ import annotations

import copy
import mmap
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from dskd_components import DSKDLoss, DSKDSpec
from dskd_components.models.run_model import groups_of_batch
from dskd_components.preflight.estimate import estimate, memory_findings, step_memory
from dskd_components.preflight.measuring import measure_step

WIDE, NARROW = 6000, 3000
TOLERANCE = 0.15


def model(vocabulary: int, *, tied: bool = True, width: int = 96, layers: int = 2) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config)


def batch_of(rows: int, sizes: tuple[int, int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    batch = {}
    for side, vocabulary in zip(("student", "teacher"), sizes, strict=True):
        ids = torch.randint(1, vocabulary, (rows, 48), generator=generator)
        labels = ids.clone()
        labels[:, :16] = -100
        groups = torch.arange(48).expand(rows, -1).masked_fill(labels < 0, -1)
        batch |= {f"{side}_input_ids": ids, f"{side}_labels": labels, f"{side}_groups": groups}
    return batch


def allocated(step: Any) -> int:
    """The peak of a step's tensors above what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def stated_and_seen(
    student: Any,
    sizes: tuple[int, int],
    *,
    foreach: bool,
    rows: int = 12,
    budget: float = 4.0,
    engine: str = "tiled",
    **narrowing: Any,
) -> tuple[int, int]:
    teacher = model(sizes[1], width=64).eval().requires_grad_(False)
    options: Any = {"name": "tiled", "memory_budget_mib": budget} if engine == "tiled" else engine
    spec = DSKDSpec(aligner="span", engine=options, spaces=["student"])
    loss_fn = DSKDLoss.from_models(spec, student, teacher, **narrowing)
    small, batch = batch_of(rows // 4, sizes), batch_of(rows, sizes)
    found = measure_step(loss_fn, student, teacher, small, groups_of_batch(small))
    memory = step_memory(loss_fn, student, teacher, found, rows * 48)
    parameters = [each for each in (*student.parameters(), *loss_fn.parameters()) if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, foreach=foreach)

    def step() -> None:
        loss_fn.run(student, teacher, batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    return memory.peak(foreach=foreach), sum(memory.held.values()) + allocated(step)


@pytest.fixture(autouse=True)
def _no_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch memory comes from the allocator, so that it is seen."""
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)


# Half of all combinations: each two of them meet in every way.
@pytest.mark.parametrize(
    ("sizes", "tied", "dtype", "foreach"),
    [
        (sizes, tied, dtype, (sizes[0] == WIDE) ^ tied ^ (dtype == torch.bfloat16))
        for sizes in ((WIDE, NARROW), (NARROW, WIDE))
        for tied in (True, False)
        for dtype in (torch.float32, torch.bfloat16)
    ],
)
def test_a_step_takes_what_is_stated(sizes: tuple[int, int], tied: bool, dtype: torch.dtype, foreach: bool) -> None:
    student = model(sizes[0], tied=tied).to(dtype).train()
    stated, seen = stated_and_seen(student, sizes, foreach=foreach)
    assert stated == pytest.approx(seen, rel=TOLERANCE)


@pytest.mark.parametrize("engine", ["tiled", "eager"])
@pytest.mark.parametrize("rows", [4, 16])
def test_whatever_the_loss_takes(engine: str, rows: int) -> None:
    student = model(NARROW, layers=1).train()
    stated, seen = stated_and_seen(student, (NARROW, WIDE), foreach=False, rows=rows, budget=64, engine=engine)
    assert stated == pytest.approx(seen, rel=TOLERANCE)


@pytest.mark.parametrize(("others", "kept"), [("left_out", WIDE // 20), ("one_outcome", WIDE // 3)])
def test_heads_that_are_narrowed(others: Any, kept: int) -> None:
    """Gradients of the head are as large as ever, logits are not, and rows are copied."""
    student, narrowing = model(WIDE), {"student_tokens": range(kept), "other_tokens": others}
    stated, seen = stated_and_seen(student, (kept, WIDE), foreach=False, **narrowing)
    assert stated == pytest.approx(seen, rel=TOLERANCE)
    teacher, batch = model(WIDE, width=64).eval(), batch_of(2, (kept, WIDE))
    loss_fn = DSKDLoss.from_models(DSKDSpec(aligner="span", spaces=["student"]), student, teacher, **narrowing)
    assert measure_step(loss_fn, student, teacher, batch, groups_of_batch(batch)).head_gradient == WIDE * 96 * 4


@pytest.mark.parametrize("frozen", ["head", "all but one layer"])
def test_what_is_frozen_has_no_gradient(frozen: str) -> None:
    student = model(WIDE, tied=False).train()
    if frozen == "head":
        student.lm_head.requires_grad_(False)
    else:
        student.requires_grad_(False)
        student.model.layers[1].requires_grad_(True)
    stated, seen = stated_and_seen(student, (WIDE, NARROW), foreach=True)
    assert stated == pytest.approx(seen, rel=TOLERANCE)


def test_the_budget_says_what_it_covers() -> None:
    student, teacher = model(WIDE).train(), model(NARROW).eval()
    loss_fn = DSKDLoss.from_models(DSKDSpec(aligner="span"), student, teacher)
    batch = batch_of(2, (WIDE, NARROW))
    found = measure_step(loss_fn, student, teacher, batch, groups_of_batch(batch))
    memory = step_memory(loss_fn, student, teacher, found, 2000)
    budget, adamw = memory_findings(memory)
    assert budget.component == "memory budget"
    assert budget.found.startswith(
        "memory_budget_mib=384 covers logits, what is computed from them, and projected states"
    )
    assert "it does not cover the gradient of the student's head in float32, 2.2 MiB, and hidden states" in budget.found
    assert "the default here is foreach=False" in adamw.found
    costs = {cost.component: cost for cost in estimate(loss_fn, student, teacher, found, 2000)}
    assert costs["loss"].bytes >= memory.in_engine + found.head_gradient
    assert {cost.component for cost in costs.values() if cost.seconds} == {
        *memory.parts,
        next(name for name in costs if name.startswith("together")),
    }
    frozen = copy.deepcopy(student).requires_grad_(False)
    frozen.model.layers[0].requires_grad_(True)
    unhindered = measure_step(loss_fn, frozen, teacher, batch, groups_of_batch(batch))
    assert (unhindered.head_gradient, unhindered.narrowed_gradient) == (0, 0)
