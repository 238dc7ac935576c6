"""Telling why logits that were computed from hidden states are not a model's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dskd_components.precision import upcast

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.causal_lm.probe import Probe

FULL_PRECISION_TOLERANCE = 1e-4
HALF_PRECISION_TOLERANCE = 2e-2


def largest_difference(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return by how much logits differ, and the largest one that was expected.

    Args:
        found: ``[..., V]``.
        expected: ``[..., V]``; may have ``-inf``, which must be at the same places.

    Returns:
        Both; the difference is infinite if a logit is finite on one side only.
    """
    expected = upcast(expected)
    finite = expected.isfinite() & found.isfinite()
    if not torch.equal(expected.isfinite(), found.isfinite()):
        return float("inf"), expected[finite].abs().max().item() if finite.any() else 0.0
    if not finite.any():
        return 0.0, 0.0
    return (found - expected)[finite].abs().max().item(), expected[finite].abs().max().item()


def tolerance_for(*dtypes: torch.dtype) -> float:
    """Return by which share of the largest logit two computations of logits may differ.

    A model in half precision rounds its own logits, and once more for every scale or softcap.

    Args:
        *dtypes: of all that logits are made of; the coarsest counts.
    """
    coarse = any(dtype not in (torch.float32, torch.float64) for dtype in dtypes)
    return HALF_PRECISION_TOLERANCE if coarse else FULL_PRECISION_TOLERANCE


def likely_cause(found: Tensor, probe: Probe) -> str:
    """Return a sentence on what is not understood of a model, as far as its logits tell; empty if they do not.

    Args:
        found: ``[1, T, V]``: the head's logits of the probe's hidden states.
        probe: what the model gave.
    """
    tolerance = tolerance_for(probe.hidden_states.dtype, probe.computed_in)
    expected = upcast(probe.logits[..., : found.shape[-1]])
    factor = (found * expected).nansum() / found.square().nansum()
    rest, magnitude = largest_difference(factor * found, expected)
    if magnitude > 0 and rest <= tolerance * magnitude:
        return f"The model's logits are the head's times {factor.item():.4g}; pass scale=... accordingly. "
    if probe.head_input is not None and not _parallel(probe.hidden_states, probe.head_input, tolerance):
        return (
            "What the model returns as its last hidden states is not what its output embeddings read: something "
            "comes between them. "
        )
    return ""


def _parallel(first: Tensor, second: Tensor, tolerance: float) -> bool:
    """Return whether one tensor is a multiple of the other."""
    if first.shape != second.shape:
        return False
    first, second = upcast(first), upcast(second)
    factor = (first * second).sum() / first.square().sum()
    return (factor * first - second).abs().max().item() <= tolerance * second.abs().max().item()
