"""Why a loss is not finite, in words. Reached only when it is not, so it may be thorough."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch

from dskd_components.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from dskd_components.engines.aligned_batch import Meeting
    from dskd_components.models.states import LMStates

ROWS: Final = 16
"""How many positions are looked at together."""


def require_finite(loss: Tensor, values: Mapping[str, Tensor], meeting: Meeting) -> None:
    """Raise the reason if the loss is NaN or infinite.

    Args:
        loss: scalar.
        values: the terms' values.
        meeting: what the terms were computed from.

    Raises:
        InputError: the loss is not finite; the message names the tensor or the distance at fault.
    """
    if loss.isfinite():
        return
    broken = [name for name, value in values.items() if not value.isfinite()] or ["their sum"]
    raise InputError(f"The loss is {loss.item()}: {_reason(meeting)} Terms at fault: {', '.join(broken)}.")


def _reason(meeting: Meeting) -> str:
    sides = (("student", meeting.student), ("teacher", meeting.teacher))
    for side, states in sides:
        damaged = _damaged(states)
        if damaged:
            return f"{side}.{damaged}."
    for side, states in sides:
        if any((logits.isnan() | (logits == math.inf)).any() for logits, _ in _logits(states)):
            return f"the {side}'s logits overflow."
    for logits, targets in _logits(meeting.student):
        if (logits.gather(1, targets[:, None]) == -math.inf).any():
            return "a target is a token that the student's head rules out (its logit is -inf)."
    return (
        "a parameter of a projector or of the aligner is NaN or infinite, or a token that one side asks for has "
        "probability 0 (a logit of -inf) on the other side."
    )


@torch.no_grad()
def _logits(states: LMStates) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits and targets of a few scored positions at a time: there may be no memory for all."""
    hidden_states, targets = states.hidden_states[states.scored], states.targets[states.scored]
    for rows in torch.arange(len(targets), device=targets.device).split(ROWS):
        yield states.head.logits(hidden_states[rows]), targets[rows]


def _damaged(states: LMStates) -> str | None:
    if not states.head.valid_weight.isfinite().all():
        return "head.weight holds NaN or infinity"
    bias = states.head.bias
    if bias is not None and (bias.isnan() | (bias == math.inf)).any():
        return "head.bias holds NaN or plus infinity"
    if states.embedding is not None and not states.embedding.isfinite().all():
        return "embedding holds NaN or infinity"
    return None
