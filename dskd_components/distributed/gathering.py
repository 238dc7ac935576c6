"""Whole weights, wherever an engine keeps them in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dskd_components.distributed.sharded_tensors import is_sharded, whole
from dskd_components.distributed.zero_partitions import is_partitioned, whole_of_partitions
from dskd_components.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def gathered(parameter: Tensor) -> Tensor:
    """Return the whole of a parameter that is spread over ranks, part of the graph.

    The loss reads heads and embeddings outside of the modules that own them, where an engine's own hooks do not gather
    them. Gradients of what is returned go back to each rank's part, averaged over ranks as the engine itself averages,
    and add to those that come through the module.

    All ranks must call this together, once a step: it communicates, and what it returns does not follow the optimizer.

    Args:
        parameter: of any shape. A parameter of FSDP2 or of tensor parallelism (a ``DTensor``, however it is placed on
            whatever mesh) and one of DeepSpeed's ZeRO-3 are gathered; any other tensor is returned as it is.

    Returns:
        A tensor of the parameter's full shape, in the dtype in which the parts are kept.

    Examples:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(3, 2))
        >>> gathered(weight) is weight
        True
    """
    if is_sharded(parameter):
        return whole(parameter)
    if is_partitioned(parameter):
        return whole_of_partitions(parameter)
    return parameter


def require_whole(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is a rank's part of a parameter.

    Args:
        name: what the message calls it.
        tensor: any tensor.

    Raises:
        InputError: it is sharded, or empty as parameters are that an engine has put away.
    """
    if is_sharded(tensor):
        found = _sharded(tensor)
    elif tensor.numel() == 0:
        found = f"an empty tensor of shape {list(tensor.shape)}, as ZeRO-3 and FSDP leave parameters that they put away"
    else:
        return
    raise InputError(
        f"{name}: expected a non-empty tensor, whole on each rank, got {found}. Pass "
        "dskd_components.distributed.gathered(parameter), made anew in each step, or let Head.from_model(model) and "
        "DSKDLoss.run gather it. Parameters of the older FullyShardedDataParallel must be read within its "
        "summon_full_params; those of fully_shard need not."
    )


def require_plain(name: str, tensor: Tensor) -> None:
    """Refuse an activation that is spread over ranks.

    Args:
        name: what the message calls it.
        tensor: any tensor.

    Raises:
        InputError: it is a DTensor.
    """
    if is_sharded(tensor):
        raise InputError(
            f"{name}: expected a plain tensor, got {_sharded(tensor)}. Let the tensor-parallel plan replicate what the "
            "head reads (output_layouts=Replicate()), or pass tensor.full_tensor()."
        )


def _sharded(tensor: Any) -> str:
    return f"a DTensor that is spread over ranks, placements {list(tensor.placements)}"
