"""Complaints about distillation losses over ranks, each with the test that keeps it away."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dskd_components import DSKDLoss, DSKDSpec, Head, InputError, LMStates
from dskd_components.distributed import gathered, sum_over_ranks, world_size
from tests.helpers.distributed_step import make_step
from tests.helpers.models import tiny_model
from tests.helpers.process_groups import run_on_ranks

if TYPE_CHECKING:
    from pathlib import Path

SCORED = (9, 1)
"""How many tokens each of two ranks scores."""


def sides(rows: slice) -> tuple[LMStates, LMStates]:
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    targets = torch.randint(0, 11, (2, 9), generator=generator)
    targets[1, SCORED[1] :] = -100
    made = []
    for width in (5, 6):
        hidden = torch.randn(2, 9, width, generator=generator)
        weight = torch.randn(11, width, generator=generator)
        made.append(LMStates(hidden_states=hidden[rows], targets=targets[rows], head=Head(weight.requires_grad_())))
    return made[0], made[1]


def gradient(rows: slice, *, globally: bool) -> torch.Tensor:
    torch.manual_seed(0)
    loss_fn = DSKDLoss(DSKDSpec(), student_hidden_size=5, teacher_hidden_size=6)
    student, teacher = sides(rows)
    num_items = sum_over_ranks(student.scored.sum()) if globally else None
    loss = loss_fn(student, teacher, num_items_in_batch=num_items).loss * (world_size() if globally else 1)
    (found,) = torch.autograd.grad(loss, student.head.weight)
    return sum_over_ranks(found) / world_size()


def gradients_of_rank(rank: int, folder: str) -> None:
    rows = slice(rank, rank + 1)
    torch.save([gradient(rows, globally=globally) for globally in (True, False)], f"{folder}/{rank}.pt")


def test_complaint_01_local_means_over_ranks(tmp_path: Path) -> None:
    run_on_ranks(gradients_of_rank, len(SCORED), tmp_path)
    expected = gradient(slice(None), globally=True)
    for rank in range(len(SCORED)):
        of_all_tokens, of_local_means = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(of_all_tokens, expected)
        assert (of_local_means - expected).norm() > 0.2 * expected.norm(), "a token of the short rank counts nine times"


def test_complaint_13_an_empty_head_is_refused() -> None:
    put_away = torch.nn.Parameter(torch.empty(0))
    for name, build in {
        "Head.weight": lambda: Head(put_away),
        "Head.bias": lambda: Head(torch.ones(2, 3), bias=put_away),
    }.items():
        with pytest.raises(InputError, match=rf"{name}.*shape \[0\], as ZeRO-3 and FSDP.*gathered\(parameter\)"):
            build()
    assert gathered(put_away) is put_away, "nobody says that it is a part of something"


def head_of_zero3(rank: int, folder: str) -> None:
    from tests.helpers.engines_of_deepspeed import start_deepspeed

    deepspeed = start_deepspeed()
    model = tiny_model("Llama")
    expected = model.lm_head.weight.detach().clone()
    deepspeed.zero.Init(module=model)
    assert model.lm_head.weight.shape == (0,)
    torch.save((expected, Head.from_model(model, verify=False).weight.detach()), f"{folder}/{rank}.pt")
    assert model.lm_head.weight.shape == (0,)


def test_complaint_13_zero3_sees_an_empty_head(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    run_on_ranks(head_of_zero3, 2, tmp_path)
    for rank in range(2):
        expected, found = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(found, expected)


def test_complaint_13_fsdp_teacher_on_another_device() -> None:
    step = make_step("dskd", tied=False)
    step.teacher.to("meta")
    with pytest.raises(InputError, match=r"The teacher is on meta, its columns of the batch are on cpu.*\.to\('cpu'\)"):
        step.loss_fn.run(step.student, step.teacher, step.batch)


def test_complaint_13_a_forward_that_fails_over_devices_says_so() -> None:
    step = make_step("dskd", tied=False)

    class Elsewhere:
        """A model on another device, whose forward fails as on an accelerator."""

        config, training, forward = step.teacher.config, False, step.teacher.forward

        def get_input_embeddings(self) -> Any:
            return SimpleNamespace(weight=torch.empty(300, 1, device="meta"))

        def get_output_embeddings(self) -> Any:
            return step.teacher.get_output_embeddings()

        def __call__(self, **inputs: Any) -> Any:
            raise RuntimeError("Expected all tensors to be on the same device")

    with pytest.raises(InputError, match=r"The teacher is on meta.*on cpu") as raised:
        step.loss_fn.states(Elsewhere(), step.batch, "teacher")  # type: ignore[arg-type]
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_complaint_13_states_and_loss_on_two_devices() -> None:
    student, teacher = sides(slice(None))
    loss_fn = DSKDLoss(DSKDSpec(), student_hidden_size=5, teacher_hidden_size=6)
    elsewhere = LMStates(
        hidden_states=teacher.hidden_states.to("meta"),
        targets=teacher.targets.to("meta"),
        head=Head(teacher.head.weight.to("meta")),
    )
    with pytest.raises(InputError, match=r"student's states are on cpu, the teacher's on meta.*\.to\('cpu'\)"):
        loss_fn(student, elsewhere)
    with pytest.raises(InputError, match=r"The loss's projectors\.t2s\.weight is on meta.*states are on cpu.*\.to\("):
        loss_fn.to("meta")(student, teacher)
