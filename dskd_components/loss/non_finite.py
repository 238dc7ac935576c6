"""Why a loss is NaN or infinite: the tensor, the plugin or the model's parameter that it comes from."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch

from dskd_components.components.hookspecs import PROJECT_NAME
from dskd_components.components.returned import ADVICE, called
from dskd_components.distributed.gathering import local_part
from dskd_components.errors import NonFiniteError
from dskd_components.models.batch import naming_teacher
from dskd_components.models.host_reads import Check
from dskd_components.models.offline_teacher import OfflineTeacher
from dskd_components.models.precision import overflow_advice
from dskd_components.models.wrappers import unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from dskd_components.engines.aligned_batch import AlignedBatch
    from dskd_components.models.states import LMStates
    from dskd_components.models.wrappers import CausalLM

ROWS: Final = 16
"""How many positions are looked at together."""


def finite_check(loss: Tensor, values: Mapping[str, Tensor], batch: AlignedBatch) -> Check:
    """Return the check that the loss is neither NaN nor infinite; it gives the reason if it is.

    Args:
        loss: scalar.
        values: the terms' values.
        batch: what the terms were computed from.
    """

    def complain() -> None:
        broken = [name for name, value in values.items() if not value.isfinite()] or ["their sum"]
        with naming_teacher(batch.teacher_name):
            raise NonFiniteError(f"The loss is {loss.item()}: {_reason(batch)} Terms at fault: {', '.join(broken)}.")

    return Check(~loss.detach().isfinite(), complain)


def _reason(batch: AlignedBatch) -> str:
    sides = (("student", batch.student), ("teacher", batch.teacher))
    for side, states in sides:
        damaged = _damaged(states)
        if damaged:
            return f"{side}.{damaged}.{overflow_advice(states.head.dtype)}"
    if any(states.head.shards is not None for _, states in sides):
        return (
            "logits overflow, a target is a token that a head rules out, a parameter of a projector or of the aligner "
            "is NaN or infinite, or a head is damaged on another rank."
        )
    for side, states in sides:
        if any((logits.isnan() | (logits == math.inf)).any() for logits, _ in _logits(states)):
            return f"the {side}'s logits overflow.{overflow_advice(states.head.dtype)}"
    for logits, targets in _logits(batch.student):
        if (logits.gather(1, targets[:, None]) == -math.inf).any():
            return "a target is a token that the student's head rules out (its logit is -inf)."
    likely = [
        "a parameter of a projector or of the aligner is NaN or infinite",
        "a token that one side asks for has probability 0 (a logit of -inf) on the other side",
        *(f"{called(own)} gives NaN or infinity where its arguments are finite" for own in _of_plugins(batch)),
    ]
    advice = f" {ADVICE}" if likely[2:] else ""
    return f"{', '.join(likely[:-1])}, or {likely[-1]}.{advice}"


def _of_plugins(batch: AlignedBatch) -> list[object]:
    """Return what has a part in a loss and is not this library's own."""
    distances = [distance for space in batch.spaces for distance in space.distances(batch.measure.distance)]
    own = [*distances, *batch.spaces, batch.alignment, *batch.projections.values()]
    found = {called(one): one for one in own if type(one).__module__.partition(".")[0] != PROJECT_NAME}
    return list(found.values())


@torch.no_grad()
def _logits(states: LMStates) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits and targets of a few scored positions at a time: there may be no memory for all."""
    hidden_states, targets = states.hidden_states[states.scored], states.outcomes[states.scored]
    for rows in torch.arange(len(targets), device=targets.device).split(ROWS):
        yield states.head.logits(hidden_states[rows]), targets[rows]


def _damaged(states: LMStates) -> str | None:
    head = states.head.local  # one rank alone may be here
    if not head.valid_weight.isfinite().all():
        return "head.weight holds NaN or infinity"
    bias = head.bias
    if bias is not None and (bias.isnan() | (bias == math.inf)).any():
        return "head.bias holds NaN or plus infinity"
    if states.embedding is not None and not states.embedding.isfinite().all():
        return "embedding holds NaN or infinity"
    if states.aux_loss is not None and not states.aux_loss.value.isfinite().all():
        return "aux_loss is NaN or infinite: the model's router is damaged"
    return None


@contextmanager
def naming_damaged_parameters(models: Mapping[str, CausalLM | OfflineTeacher]) -> Iterator[None]:
    """Name a model's parameter where what it computed is not finite, because it is not itself.

    Args:
        models: by what they are called in messages.

    Raises:
        NonFiniteError: what was raised within, with the parameter, if there is one.
    """
    try:
        yield
    except NonFiniteError as error:
        for called, model in models.items():
            name = _damaged_parameter(model)
            if name is not None:
                raise NonFiniteError(
                    f"{error} The parameter {name!r} of the {called} holds NaN or infinity itself: an optimizer step "
                    "has broken it, or it was loaded so."
                ) from error
        raise


@torch.no_grad()
def _damaged_parameter(model: CausalLM | OfflineTeacher) -> str | None:
    # What is not run has no parameters of its own, or such as it has not read here.
    plain: Any = model if isinstance(model, OfflineTeacher) else unwrapped(model)
    for name, parameter in plain.named_parameters():
        local = local_part(parameter)
        if local.is_floating_point() and local.numel() and not local.is_meta and not local.isfinite().all():
            return str(name)
    return None
