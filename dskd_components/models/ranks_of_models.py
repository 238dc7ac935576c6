"""What the placements of a model's parameters say: whether ranks have one batch, whether the head was left whole."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from torch import nn

from dskd_components.distributed.gathering import is_sharded
from dskd_components.errors import ConfigurationError
from dskd_components.models.head_recipe import read_head_recipe
from dskd_components.models.wrappers import unwrapped

if TYPE_CHECKING:
    from dskd_components.models.states import Side
    from dskd_components.models.wrappers import CausalLM


def ranks_have_the_same_rows(parameter: Any, model: CausalLM) -> bool | None:
    """Return whether the ranks of a parameter's mesh have one batch: all but those of FSDP2; None: not known.

    Args:
        parameter: a DTensor.
        model: whose it is.
    """
    inner: Any = unwrapped(model)
    meshes = _data_parallel_meshes(inner)
    if meshes == [] and getattr(inner.get_output_embeddings(), "_is_fsdp_managed_module", False):
        return None  # FSDP2 has sharded something around the model
    if meshes is None:
        return None
    return all(mesh != parameter.device_mesh for mesh in meshes)


def require_cut_head(model: CausalLM, side: Side) -> None:
    """Refuse a model whose layers are cut over ranks by tensor parallelism, and whose head is whole on each.

    It is read off the placements of the parameters, without communication. What is cut by hand, into plain tensors,
    does not tell.

    Args:
        model: the student or the teacher.
        side: which of them, for the message.

    Raises:
        ConfigurationError: it is one; the message names a layer, the head, and what to do.
    """
    inner: Any = unwrapped(model)
    if "torch.distributed.tensor" not in sys.modules or not isinstance(inner, nn.Module):
        return
    meshes = _data_parallel_meshes(inner)
    if meshes is None:
        return  # not known
    # Tensors of more dimensions are stacks of experts, and ranks that share these may have batches of their own.
    layers = ((name, parameter) for name, parameter in inner.named_parameters() if parameter.ndim <= 2)
    cut = next(((name, ranks) for name, parameter in layers if (ranks := _cut_over(parameter, meshes)) > 1), None)
    if cut is None:
        return
    head = read_head_recipe(model).weight
    if _cut_over(head, meshes) > 1:
        return
    name, ranks = cut
    raise ConfigurationError(
        f"The {side}'s layers are cut over {ranks} ranks by tensor parallelism ({name} for one), but its head, "
        f"{' x '.join(map(str, head.shape))}, is whole on each of them: every rank would make all logits and hold the "
        'gradient of all of the head. Put it into the plan ("lm_head": ColwiseParallel(output_layouts=Replicate())), '
        'or say that it is meant: DSKDSpec(engine={"name": "tiled", "vocabulary_parallel": "never"}).'
    )


def _cut_over(parameter: Any, meshes: list[Any]) -> int:
    """Return over how many ranks a parameter is cut, those left aside over which FSDP2 has sharded it."""
    if not is_sharded(parameter) or parameter.device_mesh in meshes:
        return 1
    mesh = parameter.device_mesh
    # FSDP2 puts its own dimensions before those of a mesh that it finds.
    own = next((found.ndim for found in meshes if found.ndim < mesh.ndim), 0)
    ranks = 1
    for dimension in range(own, mesh.ndim):
        ranks *= mesh.size(dimension) if parameter.placements[dimension].is_shard() else 1
    return ranks


def _data_parallel_meshes(inner: Any) -> list[Any] | None:
    """Return the meshes over which FSDP2 has sharded modules of a model; None where that is not known."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not hasattr(fsdp, "FSDPModule"):
        return []
    found = [_data_parallel_mesh(module) for module in inner.modules() if isinstance(module, fsdp.FSDPModule)]
    return None if any(mesh is None for mesh in found) else found


def _data_parallel_mesh(module: Any) -> Any:
    """Return over which mesh FSDP2 has sharded a module; None where this version of PyTorch does not say."""
    try:
        state = module._get_fsdp_state()
        groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]
        return groups[0].mesh_info.mesh
    except (AttributeError, IndexError, TypeError):
        return None
