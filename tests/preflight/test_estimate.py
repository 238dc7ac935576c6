"""Time is stated on a line through two measured steps, by scored tokens where the loss is concerned."""

from __future__ import annotations

from typing import Any

import pytest

from dskd_components import DSKDLoss, DSKDSpec
from dskd_components.preflight.estimate import estimate
from dskd_components.preflight.measuring import TIMED, MeasuredStep
from dskd_components.preflight.report import StepCost, seconds_text
from tests.helpers.models import tiny_model


def step(tokens: int, scored: int, **seconds: float) -> MeasuredStep:
    sizes = {"read": tokens, "teacher_tokens": tokens, "teacher_scored": scored, "samples": 2, "activations": tokens}
    others: dict[str, Any] = {"states": tokens, "head_gradient": 0, "narrowed_gradient": 0}
    return MeasuredStep(tokens=tokens, scored=scored, **(dict.fromkeys(TIMED, 0.0) | sizes | others | seconds))


def seconds_of(smaller: MeasuredStep | None, larger: MeasuredStep, tokens: int, scored: int) -> dict[str, float]:
    student, teacher = tiny_model("Llama"), tiny_model("Llama")
    loss_fn = DSKDLoss.from_models(DSKDSpec(), student, teacher)
    costs = estimate(loss_fn, student, teacher, larger, tokens, scored=scored, smaller=smaller)
    return {cost.component: cost.seconds for cost in costs if cost.seconds}


@pytest.mark.parametrize("fixed", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("tokens", [200, 400, 3200])
def test_fixed_costs_are_told_apart(fixed: float, tokens: int) -> None:
    def measured(size: int, of_them: int) -> MeasuredStep:
        by_tokens = dict.fromkeys(("student_forward", "teacher_forward", "student_backward"), fixed + 0.01 * size)
        return step(size, of_them, **by_tokens, loss=fixed + 0.1 * of_them, optimizer=0.25)

    found = seconds_of(measured(100, 20), measured(400, 80), tokens, tokens // 2)
    for name in ("student forward", "teacher forward", "student backward"):
        assert found[name] == pytest.approx(fixed + 0.01 * tokens)
    assert found["loss"] == pytest.approx(fixed + 0.1 * (tokens // 2)), "by scored tokens, which are more numerous here"
    assert found["AdamW: step"] == 0.25
    *parts, together = found.values()
    assert together == pytest.approx(sum(parts))


@pytest.mark.parametrize(("smaller", "expected"), [(9.0, 4.0), (0.0, 16.0), (1.0, 16.0), (4.0, 4.0), (2.5, 10.0)])
def test_noise_gives_no_time_beyond_reason(smaller: float, expected: float) -> None:
    """400 tokens took 4 seconds; whatever 100 took, 1600 take no less, and no more than four times as long."""
    found = seconds_of(step(100, 20, loss=smaller), step(400, 80, loss=4.0), 1600, 320)
    assert found["loss"] == pytest.approx(expected)


def test_one_measured_step_is_scaled() -> None:
    found = seconds_of(None, step(400, 80, loss=4.0, student_forward=1.0), 1600, 160)
    assert (found["loss"], found["student forward"]) == (8.0, 4.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "-"), (0.0123, "12 ms"), (0.25, "0.25 s"), (9.5, "9.5 s"), (153.2, "153 s"), (4321, "4,321 s")],
)
def test_times_are_written_for_people(seconds: float, text: str) -> None:
    assert seconds_text(StepCost("loss", seconds, 0, "measured")) == text
