"""What a step of training costs: memory and time, estimated from the shapes and a measured product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from dskd_components.engines.engine import BLOCK_TENSORS
from dskd_components.engines.tiled import Tiled

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from dskd_components.preflight.measuring import MeasuredStep


Basis = Literal["measured", "scaled from a measured step", "arithmetic"]


@dataclass(frozen=True)
class StepCost:
    """The cost of one component of a training step.

    Args:
        component: what costs it.
        seconds: time; 0 for what is only held.
        bytes: memory; 0 where it is counted elsewhere.
        basis: how it is known.
    """

    component: str
    seconds: float
    bytes: int
    basis: Basis


SCALED: Final[Basis] = "scaled from a measured step"

ITEMSIZE: Final = 4
"""Bytes of a number in the loss, which computes in float32."""

ATTENTION_TENSORS: Final = 4
"""Scores, both ways of normalising them, and a gradient."""


def estimate(loss_fn: Any, student: Any, teacher: Any, step: MeasuredStep, tokens: int) -> tuple[StepCost, ...]:
    """Return the costs of a step over that many tokens of the student, in samples as long as those measured.

    Time and activations grow with the number of samples. Optimizer states are those of AdamW.

    Args:
        loss_fn: a `DSKDLoss`.
        student: the student.
        teacher: the teacher.
        step: what was measured.
        tokens: of the student in a step.
    """
    factor = tokens / step.tokens
    exact: Basis = "measured" if tokens == step.tokens else SCALED
    logits = _logit_bytes(loss_fn, int(step.scored * factor), (student, teacher))
    attention = _attention_bytes(loss_fn, step, factor)
    trained = _bytes(parameter for parameter in student.parameters() if parameter.requires_grad)
    own = _bytes(loss_fn.parameters())
    constant = _bytes(loss_fn.buffers()) + sum(projection.constant_bytes for projection in loss_fn.projectors.values())
    costs = (
        StepCost("student weights", 0.0, _bytes(student.parameters()), "arithmetic"),
        StepCost("student gradients and AdamW", 0.0, 3 * trained, "arithmetic"),
        StepCost("teacher weights", 0.0, _bytes(teacher.parameters()), "arithmetic"),
        StepCost("projectors, gradients and AdamW", 0.0, 4 * own, "arithmetic"),
        StepCost("loss: buffers and constants", 0.0, constant, "arithmetic"),
        StepCost("student forward", step.student_forward * factor, int(step.activations * factor), exact),
        StepCost("student backward", step.student_backward * factor, 0, exact),
        StepCost("teacher forward", step.teacher_forward * factor, 0, exact),
        StepCost("loss: heads, alignment, distances", step.loss * factor, 0, exact),
        StepCost("loss: logits", 0.0, logits, "arithmetic"),
        StepCost("loss: alignment", 0.0, attention, "arithmetic"),
    )
    total = StepCost("together", sum(cost.seconds for cost in costs), sum(cost.bytes for cost in costs), SCALED)
    return (*(cost for cost in costs if cost.seconds or cost.bytes), total)


def _logit_bytes(loss_fn: Any, scored: int, models: tuple[Any, Any]) -> int:
    """Return what logits of all scored tokens would take; no more than its budget for an engine that has one."""
    rows = [len(model.get_output_embeddings().weight) for model in models]
    sides = {space.side for space in loss_fn.spec.spaces}
    widest = max((size for size, side in zip(rows, ("student", "teacher"), strict=True) if side in sides), default=0)
    needed = scored * max(widest, rows[0]) * ITEMSIZE * BLOCK_TENSORS
    engine = loss_fn.spec.engine
    return min(needed, int(engine.memory_budget_mib * 2**20)) if isinstance(engine, Tiled) else needed


def _attention_bytes(loss_fn: Any, step: MeasuredStep, factor: float) -> int:
    """Return what scores between all positions of both sides take, where an aligner makes them."""
    aligner = loss_fn.spec.aligner
    if aligner.same_tokenizer or aligner.text_method is not None:
        return 0
    pairs = step.tokens * step.teacher_tokens / step.samples
    return int(pairs * factor * ITEMSIZE * ATTENTION_TENSORS)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
