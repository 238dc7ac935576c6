"""Two processes with several teachers get the gradients of one, also where a rank's teacher has nothing to say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from dskd_components import Head, MultiTeacherLoss, MultiTeacherSpec
from tests.helpers.process_groups import run_on_ranks
from tests.helpers.registered import build
from tests.helpers.strategies import Batch, make_batch

if TYPE_CHECKING:
    from pathlib import Path

SPEC = MultiTeacherSpec.model_validate(
    {
        "kd_rate": {"name": "linear", "start": 0, "end": 1, "steps": 10},
        "teachers": {
            "large": {"aligner": "cma", "weight": 0.7},
            "code": {"aligner": "positional", "distance": "js", "weights": {"t2s_kd": 2}},
        },
    }
)
STEP = 4
# The second rank has the last sample only; in the second case, the first teacher says nothing of it.
CASES = [False, True]


def global_batches(*, silent: bool) -> dict[str, Batch]:
    batches = {
        "large": make_batch(7, same_tokenizer=False),
        "code": make_batch(8, same_tokenizer=False, teacher_hidden=4),
    }
    if silent:
        batches["large"].teacher.targets[2] = -100
    student = batches["large"].student
    hidden, weight = (x.clone().requires_grad_() for x in (student.hidden_states, student.head.weight))
    student = replace(student, head=Head(weight), hidden_states=hidden)
    return {name: replace(batch, student=student) for name, batch in batches.items()}


def loss_of(batches: dict[str, Batch], *, seed: int = 0) -> MultiTeacherLoss:
    return MultiTeacherLoss(SPEC, {name: build(SPEC.pair(name), batch, seed=seed) for name, batch in batches.items()})


def collected(loss_fn: MultiTeacherLoss, batches: dict[str, Batch]) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad for name, parameter in loss_fn.named_parameters()}
    found["head"] = batches["large"].student.head.weight.grad
    assert all(gradient is not None for gradient in found.values())
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def run_rank(rank: int, folder: str) -> None:
    for silent in CASES:
        batches = global_batches(silent=silent)
        loss_fn = loss_of(batches, seed=rank)  # other initial parameters: wrapping must make them one
        wrapped = DistributedDataParallel(loss_fn)
        own = slice(0, 2) if rank == 0 else slice(2, 3)
        student = batches["large"].student.rows(own)
        scored = student.scored.sum()
        dist.all_reduce(scored)
        teachers = {name: batch.teacher.rows(own) for name, batch in batches.items()}
        out = wrapped(student, teachers, num_items_in_batch=scored, step=STEP)
        # Data parallelism averages over ranks; a mean over all tokens is a sum over ranks.
        (out.loss * dist.get_world_size()).backward()
        found = collected(loss_fn, batches)
        dist.all_reduce(found["head"])  # the student's own wrapper would do this
        found["head"] = found["head"] / dist.get_world_size()
        loss = out.loss.detach().clone()
        dist.all_reduce(loss)
        torch.save((loss, found), f"{folder}/{silent}-{rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("two_processes_of_several")
    run_on_ranks(run_rank, 2, path)
    return path


@pytest.mark.parametrize("silent", CASES)
def test_gradients_of_two_processes_equal_those_of_one(folder: Path, silent: bool) -> None:
    batches = global_batches(silent=silent)
    loss_fn = loss_of(batches)
    out = loss_fn(batches["large"].student, {name: batch.teacher for name, batch in batches.items()}, step=STEP)
    out.loss.backward()
    expected = collected(loss_fn, batches)
    for rank in (0, 1):
        loss, found = torch.load(folder / f"{silent}-{rank}.pt")
        torch.testing.assert_close(loss, out.loss.detach())
        assert found.keys() == expected.keys()
        for key, gradient in found.items():
            torch.testing.assert_close(gradient, expected[key], msg=lambda text, key=key: f"{key}: {text}")
