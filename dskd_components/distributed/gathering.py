"""Whole weights, wherever an engine keeps them in parts."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager, nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from dskd_components.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from torch import nn


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is a DTensor."""
    # Nobody can have made one without this module, and importing it takes long.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_part(tensor: Any) -> Tensor:
    """Return what this process holds of a tensor: all of it, unless it is a DTensor."""
    found: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return found


def whole(parameter: Any) -> Tensor:
    """Return the whole of a DTensor, on every rank of its mesh, part of the graph.

    Args:
        parameter: the DTensor.

    Returns:
        A plain tensor. The gradient of each part is the average over the mesh: that is what data parallelism makes of
        ranks with batches of their own, and it leaves the equal gradients of tensor-parallel ranks as they are.
    """
    from torch.distributed.tensor import Partial

    mesh = parameter.device_mesh
    if parameter.device.type != mesh.device_type:
        parameter = parameter.to(mesh.device_type)  # offloaded: the mesh communicates between its own devices alone
    found: Tensor = parameter.full_tensor(grad_placements=[Partial()] * mesh.ndim)
    if found.requires_grad:
        # Not Partial("avg"), which gloo does not know; and divided before the sum, which float16 would overflow in.
        found.register_hook(lambda gradient: gradient / mesh.size())
    return found


def is_partitioned(tensor: Tensor) -> bool:
    """Return whether a tensor is a parameter that ZeRO-3 manages, gathered at this moment or not."""
    return getattr(tensor, "ds_id", None) is not None


def whole_of_partitions(parameter: Any) -> Tensor:
    """Return a copy of the whole of a ZeRO-3 parameter, part of the graph.

    Args:
        parameter: the parameter.

    Returns:
        A tensor of the parameter's full shape. Its gradient is reduced by the engine's own hook on the parameter.
    """
    with _available(parameter):
        found: Tensor = parameter.detach().clone()
        if torch.is_grad_enabled() and parameter.requires_grad:
            found = _Attached.apply(parameter, found)  # type: ignore[no-untyped-call]
    return found


def _available(parameter: Any) -> AbstractContextManager[object]:
    if _is_available(parameter):
        return nullcontext()  # leaving the engine's context would put away what somebody else needs
    context: AbstractContextManager[object] = import_module("deepspeed").zero.GatheredParameters([parameter])
    return context


def _is_available(parameter: Any) -> bool:
    return bool(parameter.numel() == parameter.ds_numel)


class _Attached(Function):
    """Makes a copy part of the graph of its parameter, which is put away between forward and backward."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, copied: Tensor) -> Tensor:
        # Not saved for backward: its version counts as changed once it has been put away.
        ctx.parameter = parameter
        return copied

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # A gradient is laid out like its parameter, so that must be there until the engine has reduced it.
        parameter = ctx.parameter
        if not _is_available(parameter):
            parameter.all_gather()
            _put_away_after_accumulation(parameter)
        return gradient, None


def _put_away_after_accumulation(parameter: Any) -> None:
    def put_away(_: Tensor) -> None:
        handle.remove()
        # Modules that still use it put it away themselves when they have finished.
        if _is_available(parameter) and not parameter.ds_active_sub_modules:
            parameter.partition()

    handle = parameter.register_post_accumulate_grad_hook(put_away)


@contextmanager
def gathered_when_called(model: Any) -> Iterator[None]:
    """Gather what ZeRO-3 has of a model, module by module as each is called, for as long as the context lasts.

    An engine does so by hooks of its own. A model that was loaded into parts, as `from_pretrained` does under ZeRO-3,
    has none until it is in an engine. All ranks must call the model together.

    Args:
        model: any; nothing happens to one that has no such parameter, or whose engine has gathered it.

    Examples:
        >>> layer = torch.nn.Linear(2, 2)
        >>> with gathered_when_called(layer):
        ...     tuple(layer(torch.zeros(1, 2)).shape)
        (1, 2)
    """
    taken: dict[int, list[Any]] = {}

    def gather(module: nn.Module, _: object) -> None:
        own: list[Any] = list(module.parameters(recurse=False))
        missing = [parameter for parameter in own if is_partitioned(parameter) and not _is_available(parameter)]
        if missing:
            missing[0].all_gather(missing)
            taken[id(module)] = missing

    def put_away(module: nn.Module, *_: object) -> None:
        for parameter in taken.pop(id(module), []):
            parameter.partition()

    with ExitStack() as hooks:
        for module in model.modules() if hasattr(model, "modules") else ():
            if any(map(is_partitioned, module.parameters(recurse=False))):
                hooks.callback(module.register_forward_pre_hook(gather).remove)
                hooks.callback(module.register_forward_hook(put_away, always_call=True).remove)
        yield


def gathered(parameter: Tensor) -> Tensor:
    """Return the whole of a parameter that is sharded, part of the graph.

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


def require_tensor(name: str, value: object) -> None:
    """Refuse what is no tensor.

    Args:
        name: what the message calls it.
        value: what was given.

    Raises:
        InputError: it is something else, such as a list, or the module whose weight is meant.
    """
    if not isinstance(value, Tensor):
        meant = " Give its .weight." if isinstance(getattr(value, "weight", None), Tensor) else ""
        raise InputError(f"{name}: expected a tensor, got {type(value).__name__}.{meant}")


def require_whole(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is a rank's part of a parameter.

    Args:
        name: what the message calls it.
        tensor: any tensor.

    Raises:
        InputError: it is sharded, or empty as parameters are that an engine has put away, or no tensor.
    """
    require_tensor(name, tensor)
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
    """Refuse an activation that is sharded.

    Args:
        name: what the message calls it.
        tensor: any tensor.

    Raises:
        InputError: it is a DTensor, or no tensor.
    """
    require_tensor(name, tensor)
    if is_sharded(tensor):
        raise InputError(
            f"{name}: expected a plain tensor, got {_sharded(tensor)}. Let the tensor-parallel plan replicate what the "
            "head reads (output_layouts=Replicate()), or pass tensor.full_tensor()."
        )


def _sharded(tensor: Any) -> str:
    return f"a DTensor that is sharded, placements {list(tensor.placements)}"


def whole_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters by name, without those that an engine has sharded and looks after itself."""
    return {name: parameter for name, parameter in module.named_parameters() if not is_in_parts(parameter)}


def whole_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return the buffers by name, without those that an engine has sharded."""
    return {name: buffer for name, buffer in module.named_buffers() if not is_in_parts(buffer)}


def is_in_parts(tensor: Tensor) -> bool:
    """Return whether an engine has sharded a tensor, though it may have gathered it for the moment."""
    return is_sharded(tensor) or is_partitioned(tensor)
