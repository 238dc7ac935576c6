"""Why a loss is not finite, in words. Reached only when it is not, so it may be thorough."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dskd_components.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dskd_components.meeting import Meeting
    from dskd_components.states import LMStates


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
    student, teacher = meeting.student, meeting.teacher
    for side, states, logits in (
        ("student", student, meeting.student_logits),
        ("teacher", teacher, meeting.teacher_logits),
    ):
        damaged = _damaged(states)
        if damaged:
            return f"{side}.{damaged}."
        if (logits.isnan() | (logits == math.inf)).any():
            return f"the {side}'s logits overflow."
    targets = student.targets[student.scored]
    if (meeting.student_logits.gather(1, targets[:, None]) == -math.inf).any():
        return "a target is a token that the student's head rules out (its logit is -inf)."
    return (
        "a parameter of a projector or of the aligner is NaN or infinite, or a token that one side asks for has "
        "probability 0 (a logit of -inf) on the other side."
    )


def _damaged(states: LMStates) -> str | None:
    if not states.head.valid_weight.isfinite().all():
        return "head.weight holds NaN or infinity"
    bias = states.head.bias
    if bias is not None and (bias.isnan() | (bias == math.inf)).any():
        return "head.bias holds NaN or plus infinity"
    if states.embedding is not None and not states.embedding.isfinite().all():
        return "embedding holds NaN or infinity"
    return None
