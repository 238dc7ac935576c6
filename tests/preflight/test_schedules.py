"""Weights that follow schedules: looked at for the first step, one half-way, and the last that changes anything."""

from __future__ import annotations

from typing import Any

import pytest

from dskd_components import DSKDSpec, MultiTeacherSpec, list_components
from dskd_components.preflight.run import steps_to_look_at, terms_at_work
from tests.helpers.pairs import look

KINDS: dict[str, dict[str, Any]] = {
    "linear": {"start": 0, "end": 0.5, "steps": 80, "begin": 20},
    "cosine": {"start": 0.5, "end": 0, "steps": 100},
    "piecewise": {"points": [[10, 0.25], [100, 0]], "interpolation": "stairs"},
}
FIELDS = ("kd_rate", "weights")


def spec_with(field: str, kind: str) -> DSKDSpec:
    schedule = {"name": kind, **KINDS[kind]}
    changes: dict[str, Any] = {"kd_rate": schedule} if field == "kd_rate" else {"weights": {"t2s_kd": schedule}}
    return DSKDSpec.preset("dskd-cma", **changes)


def test_every_kind_of_schedule_is_swept() -> None:
    assert set(KINDS) == {info.name for info in list_components("schedule")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", FIELDS)
def test_every_scheduled_field_of_every_kind(field: str, kind: str) -> None:
    spec = spec_with(field, kind)
    report = look(spec=spec, tokens_per_step=32)
    assert report.passed, report.to_text()
    assert report.costs
    batches = [each.found for each in report.findings if each.component == "batch"]
    rates = [spec.loss_weights(step).distillation for step in (0, 50, 100)]
    assert len(batches) == 3
    for step, rate, found in zip((0, 50, 100), rates, batches, strict=True):
        assert found.startswith(f"after {step} optimizer steps, with kd_rate {rate:.3g}, the loss is "), found


def test_without_schedules_there_is_no_word_of_steps() -> None:
    report = look()
    [found] = [each.found for each in report.findings if each.component == "batch"]
    assert found.startswith("the loss is ")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_after_the_last_step(kind: str) -> None:
    spec = spec_with("kd_rate", kind)
    last = spec.final_step
    assert last == 100
    rates = {step: spec.loss_weights(step).distillation for step in (last - 1, last, last + 1, 10 * last)}
    assert rates[last] == rates[last + 1] == rates[10 * last] != rates[last - 1]
    assert steps_to_look_at(spec) == (0, 50, 100)


@pytest.mark.parametrize("field", ["kd_rate", "weight", "weights"])
def test_the_last_step_of_several_teachers(field: str) -> None:
    late = {"name": "linear", "start": 0, "end": 1, "steps": 30, "begin": 300}
    teachers: dict[str, Any] = {"large": {"weight": {"name": "linear", "start": 1, "end": 0, "steps": 7}}, "code": {}}
    fields: dict[str, Any] = {"teachers": teachers}
    if field == "kd_rate":
        fields["kd_rate"] = late
    else:
        teachers["code"] = {field: late if field == "weight" else {"s2t_kd": late}}
    spec = MultiTeacherSpec(**fields)
    assert spec.final_step == 330
    assert steps_to_look_at(spec.pair("large"), spec.final_step) == (0, 165, 330)


def test_a_schedule_that_is_over_at_once_is_looked_at_once() -> None:
    spec = DSKDSpec(kd_rate={"name": "piecewise", "points": [[0, 0.5]]})
    assert steps_to_look_at(spec) == (0,)


def test_the_step_that_is_measured_is_the_costliest() -> None:
    spec = DSKDSpec(kd_rate={"name": "linear", "start": 0, "end": 0.5, "steps": 100})
    at_work = [terms_at_work(spec.loss_weights(step)) for step in (0, 50, 100)]
    assert at_work == [1, 2, 2]
