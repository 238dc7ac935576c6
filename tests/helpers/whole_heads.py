"""Models whose layers tensor parallelism has cut over two ranks, with heads that it has cut or left whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from dskd_components import ConfigurationError, DSKDLoss, DSKDSpec, InputError
from dskd_components.models.head_part import HeadPart
from dskd_components.models.ranks_of_models import require_cut_head
from tests.helpers.models import tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributed.device_mesh import DeviceMesh

HEAD = ColwiseParallel(output_layouts=Replicate())
LAYERS = {
    "mlp.gate_proj": ColwiseParallel(),
    "mlp.up_proj": ColwiseParallel(),
    "mlp.down_proj": RowwiseParallel(),
}


def _parallel(mesh: DeviceMesh, *, head: bool = False, layers: bool = True, tied: bool = False) -> Any:
    model = tiny_model("Llama", vocabulary=40, tie_word_embeddings=tied)
    for layer in model.model.layers if layers else ():
        parallelize_module(layer, mesh, LAYERS)
    if head:
        parallelize_module(model.lm_head, mesh, HEAD)
    return model


def _placed(model: Any, mesh: DeviceMesh, placement: Any) -> Any:
    weight = distribute_tensor(model.lm_head.weight, mesh, [placement])
    model.lm_head.weight = torch.nn.Parameter(weight)
    return model


def _by_fsdp(model: Any, mesh: DeviceMesh) -> Any:
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def _experts(model: Any, mesh: DeviceMesh) -> Any:
    """A stack of experts, of which each rank has some: ranks may have batches of their own."""
    model.model.layers[0].experts = torch.nn.Parameter(distribute_tensor(torch.ones(4, 3, 2), mesh, [Shard(0)]))
    return model


def _models() -> dict[str, tuple[bool, Callable[[], Any]]]:
    """By name, whether the head is whole by mistake, and the model."""
    tensor = init_device_mesh("cpu", (2,), mesh_dim_names=("tensor",))
    both = init_device_mesh("cpu", (1, 2), mesh_dim_names=("data", "tensor"))
    hybrid = init_device_mesh("cpu", (1, 2), mesh_dim_names=("replicate", "shard"))
    return {
        "layers": (True, lambda: _parallel(tensor)),
        "layers, replicated head": (True, lambda: _placed(_parallel(tensor), tensor, Replicate())),
        "layers, below FSDP2": (True, lambda: _by_fsdp(_parallel(both["tensor"]), both["data"])),
        "layers, tied": (True, lambda: _parallel(tensor, tied=True)),
        "layers and head": (False, lambda: _parallel(tensor, head=True)),
        "layers and head, below FSDP2": (
            False,
            lambda: _by_fsdp(_parallel(both["tensor"], head=True), both["data"]),
        ),
        "layers, head by columns": (False, lambda: _placed(_parallel(tensor), tensor, Shard(1))),
        "head": (False, lambda: _parallel(tensor, head=True, layers=False)),
        "FSDP2": (False, lambda: _by_fsdp(_parallel(tensor, layers=False), tensor)),
        "HSDP": (False, lambda: _by_fsdp(_parallel(tensor, layers=False), hybrid)),
        "experts": (False, lambda: _experts(_parallel(tensor, layers=False), tensor)),
        "whole": (False, lambda: _parallel(tensor, layers=False)),
    }


def found_by_placements() -> dict[str, tuple[bool, bool]]:
    """By name of a model, whether its head is whole by mistake, and whether that is found."""
    return {
        name: (mistaken, bool(_error(require_cut_head, make(), "student")))
        for name, (mistaken, make) in _models().items()
    }


def _error(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    try:
        call(*arguments, **options)
    except (ConfigurationError, InputError) as error:
        return str(error)
    return ""


def errors_of_whole_heads() -> dict[str, str]:
    """What a loop is told in its first step, of either side, by every loss; nothing where it is meant."""
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tensor",))
    ids = torch.arange(12).view(2, 6)
    batch = {"input_ids": ids, "labels": ids}
    found = {}
    for side in ("student", "teacher"):
        models = {each: tiny_model("Llama", vocabulary=40) for each in ("student", "teacher")}
        for way in ("auto", "never"):
            spec = DSKDSpec(engine={"name": "tiled", "vocabulary_parallel": way})
            loss_fn = DSKDLoss.from_models(spec, models["student"], models["teacher"])
            models[side] = _parallel(mesh)
            found[f"{side}, {way}"] = _error(loss_fn.run, models["student"], models["teacher"], batch)
    weight = torch.nn.Parameter(torch.ones(4, 2))
    for name, given, same_rows in (
        ("by hand", weight, True),
        ("by hand, replicated", distribute_tensor(weight, mesh, [Replicate()]), True),
        ("by hand, rows apart", weight, False),
        ("by hand, columns", distribute_tensor(weight, mesh, [Shard(1)]), True),
    ):
        found[name] = _error(HeadPart.of, given, same_rows=same_rows)
    return found
