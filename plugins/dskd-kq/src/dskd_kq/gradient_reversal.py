"""Gradient reversal: one optimizer for two players."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def reversed_gradient(values: Tensor, strength: float) -> Tensor:
    """Return the values, unchanged, with a gradient that goes back with the other sign.

    What comes after it learns to make a loss smaller; what comes before it learns to make the same loss greater (Ganin
    and Lempitsky 2015, arXiv 1409.7495).

    Args:
        values: ``[...]``.
        strength: what the gradient is multiplied with, besides -1.

    Examples:
        >>> import torch
        >>> values = torch.tensor([2.0], requires_grad=True)
        >>> passed = reversed_gradient(values, strength=0.5)
        >>> passed.item(), *torch.autograd.grad(passed.square().sum(), values)
        (2.0, tensor([-2.]))
    """
    constant = values.detach()
    return constant + strength * (constant - values)
