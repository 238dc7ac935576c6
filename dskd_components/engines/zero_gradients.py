"""Gradients of zero for what a loss does not depend on, but whose gradient somebody waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable


class _ZeroGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, *inputs: Tensor) -> Tensor:
        ctx.like = [(tensor.shape, tensor.dtype, tensor.device) for tensor in inputs]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
        # Expanded: they take no memory.
        return upstream, *(torch.zeros((), dtype=dtype, device=at).expand(shape) for shape, dtype, at in ctx.like)


def with_zero_gradients(value: Tensor, tensors: Iterable[Tensor | None]) -> Tensor:
    """Return the value, with a graph through which each tensor gets a gradient of zero besides what it gets otherwise.

    A term of weight 0 is no part of the loss, since 0 times infinity is no number. Data parallelism still waits for the
    gradients of all parameters.

    Args:
        value: scalar.
        tensors: those that need no gradient are passed over.

    Examples:
        >>> x = torch.tensor([torch.inf], requires_grad=True)
        >>> with_zero_gradients(torch.tensor(1.0), [x]).backward()
        >>> x.grad
        tensor([0.])
    """
    learning = [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]
    if not learning:
        return value
    found: Tensor = _ZeroGradients.apply(value, *learning)  # type: ignore[no-untyped-call]
    return found
