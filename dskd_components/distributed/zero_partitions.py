"""Parameters that DeepSpeed's ZeRO-3 has partitioned."""

from __future__ import annotations

from contextlib import nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


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
