"""Schedules as functions of the step: exact at their ends, within their range, and what a table of points says."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from dskd_components import DSKDLoss, DSKDSpec, InputError, MultiTeacherSpec, PluginError
from dskd_components.distances import KL
from dskd_components.spec import parse_spec
from dskd_components.spec.schedules import (
    CosineSchedule,
    LinearSchedule,
    PiecewiseSchedule,
    Share,
    Weight,
    at_step,
    checked_step,
    highest,
)
from tests.helpers.fake_distributions import FakeDistribution
from tests.helpers.installing import install
from tests.helpers.spec_strategies import schedules

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dskd_components.components.schedule import Schedule

__all__ = ["install"]

VALUES = st.floats(0, 1e6)
STEPS = st.integers(0, 10**6)


@given(schedule=schedules(), step=STEPS)
def test_a_schedule_never_leaves_the_range_of_its_turning_points(schedule: Schedule, step: int) -> None:
    assert min(schedule.turning_points) <= schedule.at(step) <= highest(schedule)


@given(schedule=schedules(), later=STEPS)
def test_from_the_final_step_on_nothing_changes(schedule: Schedule, later: int) -> None:
    assert schedule.at(schedule.final_step + later) == schedule.at(schedule.final_step)


def test_a_spec_knows_its_schedules_and_the_step_from_which_on_nothing_changes() -> None:
    ramp = {"name": "linear", "start": 0, "end": 1, "steps": 10, "begin": 5}
    points = {"name": "piecewise", "points": [(0, 1), (40, 0)]}
    assert (DSKDSpec().scheduled, DSKDSpec().final_step) == ({}, 0)
    spec = DSKDSpec(kd_rate=ramp, weights={"t2s_kd": points, "s2t_kd": 2.0})
    assert list(spec.scheduled) == ["kd_rate", "weights['t2s_kd']"]
    assert spec.final_step == 40
    assert spec.at(spec.final_step) == spec.at(1000) != spec.at(39)
    teachers = {"large": {"weight": points, "temperature": 2.0}, "small": {"weights": {"t2s_ce": ramp}}}
    several = MultiTeacherSpec(teachers=teachers)
    assert list(several.scheduled) == ["teachers.large.weight", "teachers.small.weights['t2s_ce']"]
    assert several.final_step == 40
    assert several.at(40) == several.at(1000)


@pytest.mark.parametrize("kind", [LinearSchedule, CosineSchedule])
@given(start=VALUES, end=VALUES, begin=st.integers(0, 100), steps=st.integers(1, 100), step=st.integers(0, 250))
def test_a_ramp(kind: Any, start: float, end: float, begin: int, steps: int, step: int) -> None:
    ramp = kind(start=start, end=end, begin=begin, steps=steps)
    assert [ramp.at(early) for early in (0, begin)] == [start, start]
    assert [ramp.at(late) for late in (begin + steps, begin + steps + step)] == [end, end]
    done = min(max((step - begin) / steps, 0), 1)
    if kind is CosineSchedule:
        done = (1 - math.cos(math.pi * done)) / 2
    assert ramp.at(step) == pytest.approx(start + done * (end - start), rel=1e-9, abs=1e-9)
    now, then = ramp.at(step), ramp.at(step + 1)
    assert (now <= then) if start <= end else (now >= then)


@given(table=st.dictionaries(st.integers(0, 100), VALUES, min_size=1, max_size=5), step=st.integers(0, 130))
def test_points_are_joined_by_lines_or_stairs(table: dict[int, float], step: int) -> None:
    points = tuple(sorted(table.items()))
    lines = PiecewiseSchedule(points=points)
    assert lines.at(step) == pytest.approx(float(np.interp(step, *zip(*points, strict=True))), rel=1e-9)
    assert all(lines.at(at) == value for at, value in points)
    stairs = PiecewiseSchedule(points=points, interpolation="stairs")
    earlier = [value for at, value in points if at <= step] or [points[0][1]]
    assert stairs.at(step) == earlier[-1]
    assert all(stairs.at(at) == value for at, value in points)


@given(start=VALUES, end=VALUES, begin=st.integers(0, 50), steps=st.integers(1, 50), step=st.integers(0, 120))
def test_two_points_are_a_linear_ramp(start: float, end: float, begin: int, steps: int, step: int) -> None:
    ramp = LinearSchedule(start=start, end=end, begin=begin, steps=steps)
    assert PiecewiseSchedule(points=((begin, start), (begin + steps, end))).at(step) == ramp.at(step)


@given(schedule=schedules())
def test_a_schedule_goes_through_json_and_back(schedule: Schedule) -> None:
    field = TypeAdapter(Weight)
    assert field.validate_json(field.dump_json(schedule)) == schedule
    assert hash(field.validate_python(schedule.model_dump())) == hash(schedule)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-0.1, "greater than or equal to 0"),
        (1.1, "less than or equal to 1"),
        (math.nan, "finite number"),
        ("linear", "Field required"),
        ("linaer", r"unknown schedule 'linaer' \(did you mean 'linear'"),
        ("-0.1", "greater than or equal to 0"),
        ("kl", "unknown schedule 'kl'.*'kl' is the name of a distance"),
        (None, "valid number"),
        (KL(), "valid number"),
        ({"start": 0}, "the schedule's name under 'name'"),
        ({"name": ["linear"]}, "the schedule's name under 'name'"),
        ({"name": "linaer"}, r"unknown schedule 'linaer' \(did you mean 'linear'"),
        (
            {"name": "linear", "start": 0, "end": 1.5, "steps": 9},
            "at most 1 at every step, but the schedule reaches 1.5",
        ),
        ({"name": "linear", "start": -1, "end": 1, "steps": 9}, "greater than or equal to 0"),
        ({"name": "linear", "start": 0, "end": 1, "steps": 0}, "greater than 0"),
        ({"name": "linear", "start": 0, "end": math.inf, "steps": 1}, "finite number"),
        ({"name": "cosine", "start": 0, "end": 1}, "Field required"),
        ({"name": "cosine", "start": 0, "end": 1, "stepz": 1}, "did you mean 'steps'"),
        ({"name": "piecewise", "points": []}, "at least 1 item"),
        ({"name": "piecewise", "points": [(3, 0), (3, 1)]}, "steps in increasing order, got 3 after 3"),
        ({"name": "piecewise", "points": [(0, 0), (9, 2)]}, "but the schedule reaches 2"),
    ],
    ids=repr,
)
def test_what_is_no_share_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Share).validate_python(value)


def test_only_a_share_has_a_limit() -> None:
    assert TypeAdapter(Weight).validate_python(7) == 7.0
    schedule = TypeAdapter(Weight).validate_python({"name": "linear", "start": 0, "end": 7, "steps": 7})
    assert at_step(schedule, 3, "weight") == 3.0


def test_a_schedule_needs_a_step_and_a_number_does_not() -> None:
    assert at_step(0.3, None, "kd_rate") == 0.3
    with pytest.raises(InputError, match=r"step is missing: the spec's kd_rate follows the schedule 'linear'.*run"):
        at_step(LinearSchedule(start=0, end=1, steps=2), None, "kd_rate")


@pytest.mark.parametrize("step", [-1, 0.5, 3.0, "3", True, [1]], ids=repr)
def test_what_is_no_step_is_refused(step: Any) -> None:
    with pytest.raises(InputError, match="step: expected the number of optimizer steps"):
        checked_step(step)


def test_integers_of_other_libraries_are_steps() -> None:
    step = checked_step(np.int64(3))
    assert (step, type(step)) == (3, int)


HALVED = FakeDistribution(
    "halving-plugin",
    """
    class Halved(Schedule):
        name: Literal["halved"] = "halved"
        steps: int = 8
        broken: Literal["", "turning_points", "final_step", "at", "range"] = ""

        def at(self, step):
            if self.broken == "range":
                return 1.5
            return 1 / 0 if self.broken == "at" else 0.5 if step >= self.steps else 1.0

        @property
        def turning_points(self):
            return () if self.broken == "turning_points" else (1, 0.5)

        @property
        def final_step(self):
            return None if self.broken == "final_step" else self.steps

    @hookimpl
    def dskd_schedules():
        return [Halved]
    """,
)


def test_a_plugins_schedule_goes_through_files_checkpoints_and_the_command_line(
    install: Callable[..., None], tmp_path: Path
) -> None:
    install(HALVED)
    text = "kd_rate: halved\nweights: {t2s_kd: {name: halved, steps: 4}}"
    spec = parse_spec(text)
    assert [spec.loss_weights(step).distillation for step in (0, 7, 8, 99)] == [1, 1, 0.5, 0.5]
    assert (spec.final_step, spec.loss_weights(5).by_term) == (8, {"t2s_kd": 0.5})
    assert DSKDSpec.model_validate_json(spec.model_dump_json()) == spec == parse_spec(text)
    jsonschema.validate(spec.model_dump(mode="json"), DSKDSpec.model_json_schema())
    in_weights = DSKDSpec(weights={"t2s_kd": "halved"})
    loss_fn = DSKDLoss(in_weights, student_hidden_size=2, teacher_hidden_size=3)
    loss_fn.save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "projectors.json").read_text(encoding="utf-8"))
    assert saved["plugins"] == {"halving-plugin": "1.0"}
    several = MultiTeacherSpec(teachers={"large": {"weight": "halved"}})
    assert several.at(8).teachers["large"].weight == 0.5
    assert parse_spec(several.model_dump_json(), MultiTeacherSpec, syntax="json") == several


@pytest.mark.parametrize("broken", ["turning_points", "final_step"])
def test_a_plugins_schedule_that_does_not_say_what_it_must_is_refused_by_name(
    install: Callable[..., None], broken: str
) -> None:
    install(HALVED)
    with pytest.raises(ValidationError, match=rf"kd_rate\n.*the schedule 'halved' \(halving_plugin.Halved\).*{broken}"):
        DSKDSpec(kd_rate={"name": "halved", "broken": broken})


@pytest.mark.parametrize(
    ("broken", "found"), [("at", r"at\(3\) failed: ZeroDivisionError"), ("range", "1.5 at step 3")]
)
def test_a_plugins_schedule_that_breaks_its_word_is_an_error_of_its_name(
    install: Callable[..., None], broken: str, found: str
) -> None:
    install(HALVED)
    spec = DSKDSpec(kd_rate={"name": "halved", "broken": broken})
    with pytest.raises(PluginError, match=f"the schedule 'halved' .*{found}"):
        spec.loss_weights(3)
