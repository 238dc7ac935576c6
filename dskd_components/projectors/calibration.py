"""How large random weights of a projector start: so that the target's head reads nearly a uniform guess from them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch

from dskd_components.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from dskd_components.components.projector import ProjectorHeads
    from dskd_components.models.head import Head


OWN_LOGIT_STD: Final = 4.0
"""By how much the logits that a language model gives at one position differ over its vocabulary (standard deviation, in
nats). Fewer nats tell tokens apart too little to predict them; 3.2 were measured for SmolLM2-135M, 4.2 for
Gemma-3-270M."""

SMALLEST_RMS: Final = 1.0
"""Root mean square of the entries of final hidden states, at least: what a final norm gives whose weights are 1."""

START_LOGIT_STD: Final = 0.1
"""By how much the logits read from projected states differ over the vocabulary at the start. A cross entropy starts
about half its square above a uniform guess, so that states four times as large as supposed cost a tenth of a nat."""

TORCH_GAIN: Final = 1 / math.sqrt(3)
"""By what `torch.nn.Linear` multiplies the root mean square of entries that are independent of its weights."""

PART: Final = 2**20
"""Numbers of a head that are widened together."""


@torch.no_grad()
def unit_logit_std(head: Head, end: str) -> float:
    """Return how much a head's logits differ over its vocabulary, for states of random direction and entries of RMS 1.

    It is ``scale * sqrt(sum of the variances of the weight's columns)``: what all rows have in common moves all logits
    alike. A softcap can only bring logits nearer to one another.

    Args:
        head: the head; it is read a part at a time.
        end: ``"source"`` or ``"target"``, for the message.

    Raises:
        InputError: the weight holds NaN or infinity.

    Examples:
        >>> from dskd_components import Head
        >>> unit_logit_std(Head(torch.tensor([[3.0, 1.0], [1.0, 1.0]]), scale=0.5), "target")
        0.5
    """
    weight = head.valid_weight.detach()
    # A token that can never be predicted says nothing of the others.
    possible = None if head.bias is None else head.bias[: len(weight)] != -torch.inf
    sums = squares = weight.new_zeros(weight.shape[1], dtype=torch.float64)
    count, size = 0, max(1, PART // weight.shape[1])
    for start in range(0, len(weight), size):
        rows = weight[start : start + size]
        wide = (rows if possible is None else rows[possible[start : start + size]]).double()
        sums = sums + wide.sum(0)
        squares = squares + wide.square().sum(0)
        count += len(wide)
    variance = float((squares / max(count, 1) - (sums / max(count, 1)) ** 2).clamp_min(0).sum())
    if not math.isfinite(variance):
        raise InputError(
            f"The weight of the {end}'s head holds NaN or infinity, so a projector cannot be scaled to it. Look at the "
            "weights of that model."
        )
    return abs(head.scale) * math.sqrt(variance)


def state_rms(head: Head, end: str) -> float:
    """Return an estimate of the root mean square of the entries of the states that a head reads, without any data.

    The states are such that the head's logits differ by `OWN_LOGIT_STD`. It is rather too large than too small, which
    does less harm: a start that is too small is a uniform guess.

    Args:
        head: the head.
        end: as in `unit_logit_std`.

    Raises:
        InputError: as there.

    Examples:
        >>> from dskd_components import Head
        >>> state_rms(Head(torch.tensor([[0.5, 0.0], [-0.5, 0.0]])), "source")
        8.0
    """
    std = unit_logit_std(head, end)
    return max(SMALLEST_RMS, OWN_LOGIT_STD / std) if std else SMALLEST_RMS


@torch.no_grad()
def calibrate(
    layers: Sequence[nn.Module], heads: ProjectorHeads, activation: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Scale new layers in place: each gives entries of RMS 1, the last logits that differ by `START_LOGIT_STD`.

    The last layer's bias becomes 0. Everything else stays as drawn, so that a seed has the same directions as ever.

    Args:
        layers: affine layers as `torch.nn.Linear` initialises them, in their order, with ``weight`` and ``bias``.
        heads: the heads at both ends.
        activation: what stands between the layers; None: nothing.

    Raises:
        InputError: a head holds NaN or infinity.
    """
    target = unit_logit_std(heads.target, "target")
    incoming = state_rms(heads.source, "source")
    for layer in layers:
        is_last = layer is layers[-1]
        outgoing = START_LOGIT_STD / target if is_last and target else 1.0
        layer.weight.mul_(outgoing / (TORCH_GAIN * incoming))  # type: ignore[operator]
        if is_last and layer.bias is not None:
            layer.bias.zero_()  # type: ignore[operator]
        incoming = 1.0 if activation is None else _rms_behind(activation)


def _rms_behind(activation: Callable[[Tensor], Tensor]) -> float:
    """Return the root mean square of what an activation makes of standard normal numbers, from their quantiles."""
    quantiles = torch.linspace(-1, 1, 2003, dtype=torch.float64)[1:-1]
    return float(activation(math.sqrt(2) * torch.erfinv(quantiles)).square().mean().sqrt())
