"""Schedules as functions of the step: exact at their ends, within their range, and what a table of points says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from dskd_components import DSKDSpec, InputError, MultiTeacherSpec
from dskd_components.spec.schedules import (
    CosineSchedule,
    LinearSchedule,
    PiecewiseSchedule,
    Schedule,
    Share,
    Weight,
    at_step,
    checked_step,
    highest,
)
from tests.helpers.spec_strategies import schedules

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
        ("linear", "valid number"),
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
