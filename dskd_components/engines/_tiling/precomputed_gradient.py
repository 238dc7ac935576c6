"""A number whose gradient is known already, as a part of the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dskd_components.engines.workspace import in_large_pages
from dskd_components.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class _PrecomputedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [tensor.dtype for tensor in inputs]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise InputError(
                "The gradient of the tiled engine's loss is a constant, so it has no gradient of its own: leave out "
                'create_graph=True, or build the spec with engine="eager" to differentiate twice.'
            )
        # The usual upstream gradient is 1, and a product would double the memory of the head's gradient.
        try:
            unscaled = bool(upstream == 1)
        except RuntimeError:  # a batch of gradients (is_grads_batched) is not one number
            unscaled = False
        scaled = (gradient if unscaled else gradient * upstream for gradient in ctx.saved_tensors)
        return None, None, *(_narrowed(gradient, dtype) for gradient, dtype in zip(scaled, ctx.dtypes, strict=True))


def _narrowed(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    if gradient.dtype == dtype:
        return gradient
    return in_large_pages(torch.empty_like(gradient, dtype=dtype)).copy_(gradient)


def require_backward(tensors: Iterable[Tensor]) -> None:
    """Refuse tensors that are differentiated in another way than by a backward pass, the only one that has a gradient.

    Args:
        tensors: what the value is computed from.

    Raises:
        InputError: one of them is part of a transform of `torch.func`, or has a forward-mode tangent.
    """
    for tensor in tensors:
        transformed = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        if transformed or forward_ad.unpack_dual(tensor).tangent is not None:
            raise InputError(
                "The tiled engine computes its gradient along with the loss and hands it on in backward(), so neither "
                'torch.func nor forward-mode differentiation finds one. Build the spec with engine="eager" for these.'
            )


def with_precomputed_gradient(value: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the value, with a graph through which each tensor gets its gradient, times what comes from above.

    Gradients are scaled in full precision and narrowed last, so that a gradient scaler works as it should. They are
    constants: a backward pass with ``create_graph=True`` raises an InputError.

    Args:
        value: scalar.
        pairs: tensors of the graph, each with the value's gradient to it.

    Examples:
        >>> import torch
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> (2 * with_precomputed_gradient(torch.tensor(9.0), [(x, torch.tensor([6.0]))])).backward()
        >>> x.grad
        tensor([12.])
    """
    if not pairs:
        return value
    inputs, gradients = zip(*pairs, strict=True)
    found: Tensor = _PrecomputedGradient.apply(value, gradients, *inputs)  # type: ignore[no-untyped-call]
    return found
