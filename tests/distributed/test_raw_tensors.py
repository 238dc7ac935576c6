"""Two processes and one process see the same raw tensors and get the same gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from dskd_components import DSKDLoss, DSKDSpec, Head
from tests.helpers.process_groups import run_on_ranks
from tests.helpers.registered import build
from tests.helpers.strategies import Batch, make_batch

if TYPE_CHECKING:
    from pathlib import Path

SPECS = {"dskd": DSKDSpec(temperature=2.0), "cma": DSKDSpec(aligner="cma", distance="reverse_kl")}
# The second rank has the last sample only; in the second case, nothing of it is scored.
CASES = [(name, silent) for name in SPECS for silent in (False, True)]


def global_batch(name: str, *, silent: bool) -> Batch:
    batch = make_batch(7, same_tokenizer=SPECS[name].aligner.same_tokenizer)
    if silent:
        for states in (batch.student, batch.teacher):
            states.targets[2] = -100
    weight = batch.student.head.weight.clone().requires_grad_()
    hidden = batch.student.hidden_states.clone().requires_grad_()
    return replace(batch, student=replace(batch.student, head=Head(weight), hidden_states=hidden))


def gradients_of_one_process(name: str, *, silent: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    batch = global_batch(name, silent=silent)
    loss_fn = build(SPECS[name], batch)
    out = loss_fn(batch.student, batch.teacher)
    out.loss.backward()
    return out.loss.detach(), collected(loss_fn, batch)


def collected(loss_fn: DSKDLoss, batch: Batch) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad for name, parameter in loss_fn.named_parameters()}
    found["head"] = batch.student.head.weight.grad
    assert all(gradient is not None for gradient in found.values())
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def run_rank(rank: int, folder: str) -> None:
    for name, silent in CASES:
        batch = global_batch(name, silent=silent)
        loss_fn = build(SPECS[name], batch, seed=rank)  # other initial parameters: wrapping must make them one
        wrapped = DistributedDataParallel(loss_fn)
        own = slice(0, 2) if rank == 0 else slice(2, 3)
        student, teacher = batch.student.rows(own), batch.teacher.rows(own)
        scored = student.scored.sum()
        dist.all_reduce(scored)
        out = wrapped(student, teacher, num_items_in_batch=scored)
        # Data parallelism averages over ranks; a mean over all tokens is a sum over ranks.
        (out.loss * dist.get_world_size()).backward()
        found = collected(loss_fn, batch)
        dist.all_reduce(found["head"])  # the student's own wrapper would do this
        found["head"] = found["head"] / dist.get_world_size()
        loss = out.loss.detach().clone()
        dist.all_reduce(loss)
        torch.save((loss, found), f"{folder}/{name}-{silent}-{rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("two_processes")
    run_on_ranks(run_rank, 2, path)
    return path


@pytest.mark.parametrize(("name", "silent"), CASES)
def test_gradients_of_two_processes_equal_those_of_one(folder: Path, name: str, silent: bool) -> None:
    expected_loss, expected = gradients_of_one_process(name, silent=silent)
    for rank in (0, 1):
        loss, found = torch.load(folder / f"{name}-{silent}-{rank}.pt")
        torch.testing.assert_close(loss, expected_loss)
        assert found.keys() == expected.keys()
        for key, gradient in found.items():
            torch.testing.assert_close(gradient, expected[key], msg=lambda text, key=key: f"{key}: {text}")
