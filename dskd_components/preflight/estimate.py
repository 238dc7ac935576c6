"""What a step of training costs: time and memory, from the shapes and from a measured step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dskd_components.engines.tiled import Tiled
from dskd_components.preflight.memory import StepMemory
from dskd_components.preflight.report import Basis, Finding, StepCost, size_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dskd_components.preflight.measuring import MeasuredStep


SCALED: Final[Basis] = "scaled from a measured step"


def estimate(
    loss_fn: Any,
    student: Any,
    teacher: Any,
    step: MeasuredStep,
    tokens: int,
    *,
    scored: int | None = None,
    smaller: MeasuredStep | None = None,
) -> tuple[StepCost, ...]:
    """Return the costs of a step over that many tokens of the student, in samples as long as those measured.

    What the models do grows with the tokens, what the loss does with those that are scored. The optimizer is AdamW.
    Some time is the same for any number of tokens, such as that for the gradient of an embedding; two measured steps
    tell it apart.

    Args:
        loss_fn: a `DSKDLoss`.
        student: the student.
        teacher: the teacher.
        step: what was measured.
        tokens: of the student in a step, padding included.
        scored: how many of them are scored; None: as many as among those measured.
        smaller: what was measured of a step of fewer tokens; None: all time grows with the tokens.
    """
    memory = step_memory(loss_fn, student, teacher, step, tokens, scored=scored)
    basis: Basis = "measured" if tokens == step.tokens and scored in (None, step.scored) else SCALED
    smaller = step if smaller is None else smaller
    sizes, of_scored = smaller.tokens / step.tokens, smaller.scored / max(step.scored, 1)
    seconds = {
        "student forward": _at(memory.factor, step.student_forward, smaller.student_forward, sizes),
        "teacher forward": _at(memory.factor, step.teacher_forward, smaller.teacher_forward, sizes),
        "loss": _at(memory.scored_factor, step.loss, smaller.loss, of_scored),
        "student backward": _at(memory.factor, step.student_backward, smaller.student_backward, sizes),
        "AdamW: step": step.optimizer,
    }
    costs = [StepCost(name, 0.0, size, "arithmetic") for name, size in memory.held.items() if size]
    costs += [StepCost(name, seconds[name], size, basis) for name, size in memory.parts.items()]
    largest = max(memory.parts, key=lambda name: memory.parts[name])
    together = StepCost(
        f"together, the most during {largest.removesuffix(': step')}",
        sum(seconds.values()),
        memory.peak(foreach=memory.foreach),
        basis,
    )
    return (*costs, together)


def _at(factor: float, seconds: float, smaller: float, size: float) -> float:
    """Return the time of so many times what was measured, on a line through both measured times.

    Args:
        factor: how many times.
        seconds: what was measured.
        smaller: what a smaller step took.
        size: of that one, as a share of what was measured.
    """
    if size >= 1:
        return seconds * factor
    # Times are noisy: no more than all of it grows, and no less than nothing.
    growing = min(max((seconds - smaller) / (1 - size), 0.0), seconds)
    return seconds + growing * (factor - 1)


def step_memory(
    loss_fn: Any, student: Any, teacher: Any, step: MeasuredStep, tokens: int, *, scored: int | None = None
) -> StepMemory:
    """Return what is in memory in a step over that many tokens; see `estimate`.

    Args:
        loss_fn: as there.
        student: as there.
        teacher: as there.
        step: as there.
        tokens: as there.
        scored: as there.
    """
    factor = tokens / step.tokens
    return StepMemory(
        loss_fn=loss_fn,
        student=student,
        teacher=teacher,
        step=step,
        factor=factor,
        scored_factor=factor if scored is None else scored / max(step.scored, 1),
    )


def memory_findings(memory: StepMemory) -> Iterator[Finding]:
    """Say what the engine's budget covers, and what another AdamW would take.

    Args:
        memory: of the step.
    """
    engine = memory.loss_fn.spec.engine
    beside = f"hidden states and their gradients in float32, {size_text(memory.states)}"
    if memory.step.head_gradient:
        beside = f"the gradient of the student's head in float32, {size_text(memory.step.head_gradient)}, and {beside}"
    if isinstance(engine, Tiled):
        budget = engine.budget_bytes(memory.accelerator_memory) / 2**20
        yield Finding(
            "ok",
            "memory budget",
            f"memory_budget_mib={budget:g} covers logits, what is computed from them, and projected states, of "
            f"which the step needs {size_text(memory.in_engine)}; it does not cover {beside}",
        )
    ways = [
        f"{size_text(memory.temporaries(foreach=foreach))} with foreach={foreach} (all together "
        f"{size_text(memory.peak(foreach=foreach))})"
        for foreach in (False, True)
    ]
    yield Finding(
        "ok", "AdamW", f"its step makes and drops {' and '.join(ways)}; the default here is foreach={memory.foreach}"
    )
