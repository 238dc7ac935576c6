"""Two processes and one process see the same raw tensors and get the same gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from dskd_components import DSKDLoss, DSKDSpec, Head, InputError
from dskd_components.models.cut_rows import joined_rows
from tests.helpers.process_groups import run_on_ranks
from tests.helpers.registered import build
from tests.helpers.strategies import Batch, make_batch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dskd_components import LMStates

SPECS = {"dskd": DSKDSpec(temperature=2.0), "cma": DSKDSpec(aligner="cma", distance="reverse_kl")}
# Groups of these cross the cut, and attention looks across it.
SPECS_OF_CUT_ROWS = {"dskd": DSKDSpec(), "span": DSKDSpec(aligner="span"), "cma": DSKDSpec(aligner="cma")}
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


def run_all(rank: int, folder: str) -> None:
    run_rank(rank, folder)
    run_rank_with_cut_rows(rank, folder)


# What each rank has of every row, of the student's 6 positions and the teacher's; with one tokenizer these are as many.
PARTS = {
    "runs": ([[0, 1, 2], [3, 4, 5]], [[0, 1, 2, 3], [4, 5, 6, 7]]),
    "balanced": ([[0, 5, 2], [3, 1, 4]], [[0, 7, 1, 6], [2, 3, 4, 5]]),
}
CUT = [(name, cut) for name in SPECS_OF_CUT_ROWS for cut in PARTS]


def run_rank_with_cut_rows(rank: int, folder: str) -> None:
    for name, cut in CUT:
        spec = SPECS_OF_CUT_ROWS[name]
        batch = batch_of_cut_rows(name)
        loss_fn = build(spec, batch)
        student, teacher = (
            joined_rows(part_of(states, parts[rank]), positions=None if cut == "runs" else torch.tensor(parts[rank]))
            for states, parts in zip((batch.student, batch.teacher), parts_of(spec, cut), strict=True)
        )
        assert torch.equal(student.columns["worth"], batch.student.targets[:, :, None] * torch.tensor([1, 10]))
        scored = student.scored.sum()
        dist.all_reduce(scored)  # a row counts once a rank
        out = replace(batch, student=student, teacher=teacher).loss(loss_fn, num_items_in_batch=scored)
        out.loss.backward()
        found = collected(loss_fn, batch) | {"hidden states": batch.student.hidden_states.grad}
        for gradient in found.values():
            dist.all_reduce(gradient)
        loss = out.loss.detach().clone()
        dist.all_reduce(loss)
        torch.save((loss, found), f"{folder}/{name}-{cut}-{rank}.pt")
    states = part_of(batch_of_cut_rows("dskd").student, [0, 1] if rank else [0, 1, 2])
    even = part_of(batch_of_cut_rows("dskd").student, [0, 1])
    messages = {
        "sizes": message(lambda: joined_rows(states)),
        "twice": message(lambda: joined_rows(even, positions=torch.tensor([0, 1]))),
        "shape": message(lambda: joined_rows(even, positions=torch.tensor([0.0, 1.0]))),
        "counted": message(lambda: joined_rows(replace(even, samples_are_counted=True))),
    }
    torch.save(messages, f"{folder}/messages-{rank}.pt")


def message(function: Callable[[], object]) -> str:
    try:
        function()
    except InputError as error:
        return str(error)
    return "nothing was raised"


def columns_of(states: LMStates) -> dict[str, torch.Tensor | None]:
    return {name: getattr(states, name) for name in ("hidden_states", "targets", "input_ids", "segment_ids")}


def parts_of(spec: DSKDSpec, cut: str) -> tuple[list[list[int]], list[list[int]]]:
    student, teacher = PARTS[cut]
    return student, student if spec.aligner.same_tokenizer else teacher


def part_of(states: LMStates, positions: list[int]) -> LMStates:
    cut = {name: None if column is None else column[:, positions] for name, column in columns_of(states).items()}
    return replace(states, **cut, columns={"worth": states.targets[:, positions, None] * torch.tensor([1, 10])})


def batch_of_cut_rows(name: str) -> Batch:
    batch = make_batch(7, same_tokenizer=SPECS_OF_CUT_ROWS[name].aligner.same_tokenizer)
    weight = batch.student.head.weight.clone().requires_grad_()
    hidden = batch.student.hidden_states.clone().requires_grad_()
    return replace(batch, student=replace(batch.student, head=Head(weight), hidden_states=hidden))


@pytest.mark.parametrize(("name", "cut"), CUT)
def test_rows_that_ranks_have_cut_give_what_whole_rows_give(folder: Path, name: str, cut: str) -> None:
    batch = batch_of_cut_rows(name)
    loss_fn = build(SPECS_OF_CUT_ROWS[name], batch)
    out = batch.loss(loss_fn)
    out.loss.backward()
    expected = collected(loss_fn, batch) | {"hidden states": batch.student.hidden_states.grad}
    for rank in (0, 1):
        loss, found = torch.load(folder / f"{name}-{cut}-{rank}.pt")
        torch.testing.assert_close(loss, out.loss.detach())
        for key, gradient in found.items():
            torch.testing.assert_close(gradient, expected[key], msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("rank", [0, 1])
def test_parts_that_make_no_whole_rows_are_refused(folder: Path, rank: int) -> None:
    messages = torch.load(folder / f"messages-{rank}.pt")
    assert "parts of one size on all ranks" in messages["sizes"]
    assert "0 to 3, each once in a row" in messages["twice"]
    assert "expected positions [3, 2]" in messages["shape"]
    assert "told apart by segment_ids" in messages["counted"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("two_processes")
    run_on_ranks(run_all, 2, path)
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
