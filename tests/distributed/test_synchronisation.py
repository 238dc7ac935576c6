"""Parameters and gradients of a loss that no engine wraps, on three ranks."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from dskd_components import DSKDLoss, DSKDSpec, Head, InputError, LMStates
from dskd_components.distributed import (
    gathered,
    reduce_gradients,
    require_reduced_gradients,
    require_synchronised,
    sum_over_ranks,
    synchronise,
    world_size,
)
from tests.helpers.models import tiny_model
from tests.helpers.process_groups import run_on_ranks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RANKS = 3
SIZES = {"student_hidden_size": 3, "teacher_hidden_size": 4}


def loss_of_rank(rank: int, **options: Any) -> DSKDLoss:
    torch.manual_seed(rank)
    return DSKDLoss(DSKDSpec(**options), **SIZES)


def message(function: Callable[[], object]) -> str:
    try:
        function()
    except InputError as error:
        return str(error)
    return "nothing was raised"


def parameters(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    loss_fn = loss_of_rank(rank)
    found["apart"] = message(lambda: require_synchronised(loss_fn))
    synchronise(loss_fn)
    require_synchronised(loss_fn)
    found["state"] = deepcopy(loss_fn.state_dict())
    with torch.no_grad():
        loss_fn.projectors["t2s"].bias[1] += 0.25 * (rank == 2)
    found["one entry"] = message(lambda: require_synchronised(loss_fn))
    with torch.no_grad():
        loss_fn.projectors["t2s"].bias.fill_(torch.nan)
    require_synchronised(loss_fn)
    with torch.no_grad():
        loss_fn.projectors["t2s"].bias[0] = 1.0 if rank else torch.nan
    found["not a number"] = message(lambda: require_synchronised(loss_fn))
    other = loss_of_rank(rank, **({"t2s_projector": "mlp"} if rank == 1 else {}))
    found["other parameters"] = message(lambda: synchronise(other))
    buffered = torch.nn.BatchNorm1d(2)
    buffered.running_mean += rank + 5
    synchronise(buffered)
    found["buffer"] = buffered.running_mean
    return found


def gradients(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    module = torch.nn.ModuleDict({name: torch.nn.Linear(2, 1, bias=False) for name in "abcd"})
    module["d"].requires_grad_(False)
    module["a"].weight.grad = torch.tensor([[1.0 + rank, 2.0]])
    module["b"].double().weight.grad = torch.tensor([[3.0, 6.0]], dtype=torch.float64) if rank == 1 else None
    found["unreduced"] = message(lambda: require_reduced_gradients(module))
    reduce_gradients(module)
    require_reduced_gradients(module)
    reduce_gradients(module)
    found["grads"] = {name: layer.weight.grad for name, layer in module.items()}
    found["dtypes"] = {name: layer.weight.dtype for name, layer in module.items()}
    sharded = fully_shard(torch.nn.Linear(2, 6, bias=False))
    sharded(torch.full((1, 2), 1.0 + rank)).sum().backward()
    before = sharded.weight.grad.full_tensor()
    reduce_gradients(sharded)
    require_reduced_gradients(sharded)
    require_synchronised(sharded)
    found["sharded"] = torch.equal(before, sharded.weight.grad.full_tensor())
    return found


def groups(rank: int) -> dict[str, Any]:
    pair, alone = dist.new_group([1, 2]), dist.new_group([0])
    group = alone if rank == 0 else pair
    count = torch.tensor(10 + rank)
    loss_fn = loss_of_rank(rank)
    synchronise(loss_fn, group=group)
    loss_fn.projectors["t2s"].weight.grad = torch.full_like(loss_fn.projectors["t2s"].weight, float(rank))
    reduce_gradients(loss_fn, group=group)
    return {
        "size": world_size(group),
        "sum": sum_over_ranks(count, group=group),
        "everywhere": sum_over_ranks(2.5),
        "unmodified": int(count),
        "state": loss_fn.state_dict(),
        "grad": loss_fn.projectors["t2s"].weight.grad[0, 0].item(),
    }


def sharded_tensors(rank: int) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (RANKS,))
    whole = torch.arange(14.0).reshape(7, 2)
    parameter = torch.nn.Parameter(distribute_tensor(whole, mesh, [Shard(0)]))
    half = torch.nn.Parameter(distribute_tensor(whole.bfloat16(), mesh, [Shard(1)]))
    (gathered(parameter) * (1.0 + rank)).sum().backward()
    (gathered(half) * (1.0 + rank)).sum().backward()
    states = {"targets": torch.zeros(7, 2, dtype=torch.long), "head": Head(torch.ones(3, 2))}
    spread = distribute_tensor(torch.zeros(7, 2, 2), mesh, [Shard(0)])
    with torch.no_grad():
        constant = gathered(parameter)
    loss_fn = loss_of_rank(rank)
    fully_shard(loss_fn.projectors["t2s"])
    targets = torch.ones(1, 2, dtype=torch.long)
    sides = [
        LMStates(hidden_states=torch.ones(1, 2, size), targets=targets, head=Head(torch.ones(5, size)))
        for size in SIZES.values()
    ]
    biased = tiny_model("Phi")
    expected = biased.lm_head.weight.detach().clone(), biased.lm_head.bias.detach().normal_().clone()
    fully_shard(biased)
    head = Head.from_model(biased, verify=False)
    return {
        "equal": torch.equal(constant, whole) and not constant.requires_grad,
        "grad": parameter.grad.full_tensor(),
        "half": half.grad.full_tensor(),
        "biased": torch.equal(head.weight, expected[0]) and torch.equal(head.bias, expected[1]),
        "loss": message(lambda: loss_fn(*sides)),
        "head": message(lambda: Head(parameter)),
        "bias": message(lambda: Head(whole, bias=distribute_tensor(torch.zeros(7), mesh, [Shard(0)]))),
        "states": message(lambda: LMStates(hidden_states=spread, **states)),
        "embedding": message(lambda: LMStates(hidden_states=torch.zeros(7, 2, 2), embedding=parameter, **states)),
    }


TOPICS = (parameters, gradients, groups, sharded_tensors)


def run_rank(rank: int, folder: str) -> None:
    torch.save({topic.__name__: topic(rank) for topic in TOPICS}, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    folder: Path = tmp_path_factory.mktemp("three_processes")
    run_on_ranks(run_rank, RANKS, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]


@pytest.mark.parametrize("rank", range(RANKS))
def test_parameters_out_of_step_are_named_and_set_right(found: list[dict[str, dict[str, Any]]], rank: int) -> None:
    results = found[rank]["parameters"]
    for part in ("DSKDLoss", "'projectors.", "differs by up to", "others differ", "synchronise", "reduce_gradients"):
        assert part in results["apart"]
    for name, tensor in loss_of_rank(0).state_dict().items():
        assert torch.equal(results["state"][name], tensor)
    assert "'projectors.t2s.bias' differs by up to 0.25 from the first rank's." in results["one entry"]
    assert "'projectors.t2s.bias' differs by up to inf" in results["not a number"]
    assert "Rank 1 has other tensors than rank 0, for example 'projectors.t2s." in results["other parameters"]
    assert results["buffer"].tolist() == [5.0, 5.0]


@pytest.mark.parametrize("rank", range(RANKS))
def test_gradients_that_nobody_reduced_are_named_and_averaged(
    found: list[dict[str, dict[str, Any]]], rank: int
) -> None:
    results = found[rank]["gradients"]
    for part in ("not reduced", "'b.weight' differs by up to 6", "1 others", "reduce_gradients", "DistributedDataPar"):
        assert part in results["unreduced"]
    assert results["grads"]["a"].tolist() == [[2.0, 2.0]]
    assert results["grads"]["b"].tolist() == [[1.0, 2.0]]
    assert results["grads"]["b"].dtype == results["dtypes"]["b"] == torch.float64
    assert results["grads"]["c"] is None
    assert results["grads"]["d"] is None
    assert results["sharded"], "what an engine reduces is left to it"


@pytest.mark.parametrize("rank", range(RANKS))
def test_groups_of_ranks(found: list[dict[str, dict[str, Any]]], rank: int) -> None:
    results = found[rank]["groups"]
    first = 0 if rank == 0 else 1
    assert (results["size"], int(results["sum"])) == ((1, 10) if rank == 0 else (2, 23))
    assert float(results["everywhere"]) == 7.5
    assert results["unmodified"] == 10 + rank
    assert results["grad"] == (0.0 if rank == 0 else 1.5)
    for name, tensor in loss_of_rank(first).state_dict().items():
        assert torch.equal(results["state"][name], tensor)


@pytest.mark.parametrize("rank", range(RANKS))
def test_sharded_tensors_are_gathered_or_refused(found: list[dict[str, dict[str, Any]]], rank: int) -> None:
    results = found[rank]["sharded_tensors"]
    assert results["equal"]
    assert results["biased"]
    assert torch.equal(results["grad"], torch.full((7, 2), 2.0))
    assert torch.equal(results["half"], torch.full((7, 2), 2.0, dtype=torch.bfloat16))
    for name in ("head", "bias", "embedding"):
        assert "DTensor" in results[name]
        assert "dskd_components.distributed.gathered(" in results[name]
    assert "The loss's projectors.t2s.weight is in parts on several ranks" in results["loss"]
    assert "LMStates.hidden_states" in results["states"]
    assert "full_tensor()" in results["states"]
