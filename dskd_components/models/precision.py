"""The one place that decides in which floating-point precision the loss is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from dskd_components.distributed.gathering import is_sharded

if TYPE_CHECKING:
    from torch import Tensor


def upcast(tensor: Tensor) -> Tensor:
    """Return the tensor in at least float32: bfloat16 and float16 are widened, float64 is kept.

    Args:
        tensor: any floating-point tensor; it is never modified.

    Returns:
        The tensor itself where it already is float32 or float64, a float32 copy otherwise.

    Examples:
        >>> import torch
        >>> upcast(torch.ones(2, dtype=torch.bfloat16)).dtype, upcast(torch.ones(2, dtype=torch.float64)).dtype
        (torch.float32, torch.float64)
    """
    return tensor.to(full_precision(tensor.dtype))


def full_precision(dtype: torch.dtype) -> torch.dtype:
    """Return what numbers of a type are computed in: float64 for float64, float32 for all others.

    Args:
        dtype: any floating-point type.
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def quantized_form(weight: Tensor) -> str | None:
    """Return in what form a weight is stored that is not a matrix of floating-point numbers; None if it is one.

    Args:
        weight: a parameter, or what is made of it. One of integers is quantized (bitsandbytes). So is one of a tensor
            class around other tensors (torchao), whatever type it says it has; but for parts of what engines spread.

    Examples:
        >>> import torch
        >>> quantized_form(torch.ones(2, 2)), quantized_form(torch.ones(2, 2, dtype=torch.int8))
        (None, 'int8')
    """
    if not weight.is_floating_point():
        return str(weight.dtype).removeprefix("torch.")
    is_wrapper: bool = is_traceable_wrapper_subclass(weight)
    return type(weight.data).__name__ if is_wrapper and not is_sharded(weight) else None


def overflow_advice(dtype: torch.dtype) -> str:
    """Return a sentence on what to do about numbers that have overflowed, with a space before it; empty if no type is.

    Args:
        dtype: what they were computed in.

    Examples:
        >>> import torch
        >>> overflow_advice(torch.bfloat16)
        ''
    """
    if dtype != torch.float16:
        return ""
    return (
        " float16 holds no number above 65504, and optimizers break parameters of it: load the model in bfloat16 "
        "(dtype=torch.bfloat16), or in float32, run under torch.autocast with a GradScaler (fp16=True in a Trainer)."
    )


def without_autocast(device: torch.device) -> torch.autocast:
    """Return a context in which autocast is off, so that matrix products keep the precision of `upcast`.

    Args:
        device: the device that the computation runs on.

    Returns:
        A context manager.
    """
    return torch.autocast(device_type=device.type, enabled=False)
