"""Specs of several teachers: through JSON and back, into the specs of pairs, and what is refused."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from dskd_components import DSKDSpec, MultiTeacherSpec, TeacherSpec
from dskd_components.spec.presets import PRESETS
from tests.helpers.spec_strategies import lists_of_spaces, models, weighted
from tests.helpers.spec_strategies import weights as weight_strategy

NAMES = st.sampled_from(["large", "small", "code", "Qwen2_5"])
SCHEMA = MultiTeacherSpec.model_json_schema()


@st.composite
def several(draw: st.DrawFn) -> MultiTeacherSpec:
    one = weighted(models(TeacherSpec, spaces=lists_of_spaces()))
    teachers = draw(st.dictionaries(NAMES, one, min_size=1, max_size=3))
    certain = {name: teacher.replace(weight=1) for name, teacher in list(teachers.items())[:1]}
    return MultiTeacherSpec(teachers=teachers | certain, kd_rate=draw(weight_strategy(1)))


@settings(max_examples=20)
@given(several())
def test_a_spec_goes_through_json_and_back(spec: MultiTeacherSpec) -> None:
    assert MultiTeacherSpec.model_validate_json(spec.model_dump_json()) == spec
    assert hash(MultiTeacherSpec.model_validate(spec.model_dump())) == hash(spec)
    assert pickle.loads(pickle.dumps(spec)) == spec
    Draft202012Validator(SCHEMA).validate(json.loads(spec.model_dump_json()))


@settings(max_examples=20)
@given(several(), st.integers(0, 1500))
def test_at_a_step_nothing_is_scheduled(spec: MultiTeacherSpec, step: int) -> None:
    now = spec.at(step)
    assert now.at(0) == now
    for name, weights in spec.loss_weights(step).items():
        own = now.loss_weights()[name]
        assert (own.cross_entropy, own.distillation) == (weights.cross_entropy, weights.distillation)
        assert own.by_term == weights.by_term


@pytest.mark.parametrize("name", PRESETS)
def test_a_pair_is_the_spec_of_one_teacher(name: str) -> None:
    spec = MultiTeacherSpec(
        teachers={"large": TeacherSpec.preset(name, temperature=2.0, weight=3)}, kd_rate=0.2, reduction="sum"
    )
    assert spec.pair("large") == DSKDSpec.preset(name, temperature=2.0, kd_rate=0.2, reduction="sum")


def test_the_order_of_teachers_makes_no_difference() -> None:
    teachers = {"a": TeacherSpec(), "b": TeacherSpec(aligner="cma")}
    spec, turned = (MultiTeacherSpec(teachers=dict(items)) for items in (teachers.items(), reversed(teachers.items())))
    assert spec == turned
    assert hash(spec) == hash(turned)
    with pytest.raises(TypeError):
        spec.teachers["a"] = TeacherSpec()  # type: ignore[index]


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ({}, "at least one teacher"),
        ([], "valid dictionary"),
        ({"a": {"weight": -1}}, "greater than or equal to 0"),
        ({"a": {"weight": 0}, "b": {"weight": 0}}, "all of them have weight 0 at every step"),
        ({"a": {"weight": {"name": "linear", "start": 0, "end": 0, "steps": 2}}}, "weight 0 at every step"),
        ({"a": {"kd_rate": 0.5}}, "unknown field 'kd_rate'"),
        ({"a": {"distance": "k1"}}, "unknown distance 'k1'"),
        ({"a": {"spaces": ["teacher"], "weights": {"t2s_kd": 1}}}, "unknown term 't2s_kd'.* terms are s2t_kd"),
        ({"student": {}}, "cannot be called 'student'"),
        ({"student_2": {}}, "columns of that name are the student's"),
        ({"a.b": {}}, "letters, digits and underscores"),
        ({"": {}}, "letters, digits and underscores"),
        ({"train": {}}, "torch has that name"),
    ],
    ids=repr,
)
def test_what_is_no_set_of_teachers_is_refused(teachers: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        MultiTeacherSpec(teachers=teachers)
    assert all(error["loc"][0] == "teachers" for error in caught.value.errors())


def test_a_teacher_that_starts_at_zero_is_one() -> None:
    rising = {"name": "linear", "start": 0, "end": 1, "steps": 2}
    assert MultiTeacherSpec(teachers={"a": {"weight": rising}}).loss_weights(0)["a"].distillation == 0  # type: ignore[dict-item]
