"""Spec files of several teachers: what is read, and the path of each problem."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from dskd_components import (
    DSKDSpec,
    MultiTeacherSpec,
    SpecFileError,
    TeacherSpec,
    load_multi_teacher_spec,
    load_spec,
)
from dskd_components.spec import parse_spec
from tests.helpers.spec_strategies import near_documents

if TYPE_CHECKING:
    from pathlib import Path

YAML = """
kd_rate: {name: linear, start: 0, end: 0.5, steps: 100}
teachers:
  large:
    preset: dskd-cma
    distance: {name: skew_kl, alpha: 0.3}
    weight: 0.7
  code:
    aligner: span
    weights: {s2t_kd: 2}
"""
SPEC = MultiTeacherSpec(
    kd_rate={"name": "linear", "start": 0, "end": 0.5, "steps": 100},  # type: ignore[arg-type]
    teachers={
        "large": TeacherSpec.preset("dskd-cma", distance={"name": "skew_kl", "alpha": 0.3}, weight=0.7),
        "code": TeacherSpec(aligner="span", weights={"s2t_kd": 2}),
    },
)


def problems(text: str, expected: Any = MultiTeacherSpec) -> list[str]:
    with pytest.raises(SpecFileError) as caught:
        parse_spec(text, expected, source="spec.yaml")
    return str(caught.value).splitlines()


def test_yaml_and_json(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(YAML)
    (tmp_path / "spec.json").write_text(SPEC.model_dump_json())
    assert load_multi_teacher_spec(tmp_path / "spec.yaml") == load_multi_teacher_spec(tmp_path / "spec.json") == SPEC


def test_the_key_teachers_tells_the_kinds_apart(tmp_path: Path) -> None:
    assert parse_spec(YAML, None) == SPEC
    assert parse_spec("preset: dskd", None) == DSKDSpec.preset("dskd")
    (tmp_path / "spec.yaml").write_text(YAML)
    with pytest.raises(SpecFileError, match=r"yaml:3: teachers: this is a spec of several teachers, which load_multi"):
        load_spec(tmp_path / "spec.yaml")
    assert problems("kd_rate: 0.5") == ["spec.yaml:1: teachers: Field required"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("teachers:\n  a: {weight: -1}", "spec.yaml:2: teachers.a.weight: Input should be greater than or equal to 0"),
        (
            "teachers:\n  a:\n    temprature: 2",
            "spec.yaml:3: teachers.a.temprature: unknown field 'temprature'",
        ),
        ("teachers:\n  a:\n    kd_rate: 1", "spec.yaml:3: teachers.a.kd_rate: unknown field 'kd_rate'"),
        (
            "teachers:\n  a:\n    preset: dksd",
            "spec.yaml:3: teachers.a.preset: unknown preset 'dksd'",
        ),
        (
            "teachers:\n  a:\n    spaces:\n      - {name: teacher, distance: {name: js, beta: 2}}",
            "spec.yaml:4: teachers.a.spaces[0].distance.beta: Input should be less than 1, got 2",
        ),
        (
            "teachers:\n  a: dskd",
            "spec.yaml:2: teachers.a: expected the fields of a teacher, `weight: 0.5`",
        ),
        ("teachers: []", "spec.yaml:1: teachers: expected a mapping, names with values, got []"),
        ("teachers: {}", "spec.yaml:1: teachers: expected at least one teacher"),
        ("teachers:\n  student: {}", "spec.yaml:2: teachers.student: a teacher cannot be called 'student'"),
        ("preset: dskd\nteachers: {a: {}}", "spec.yaml:1: preset: a preset is a teacher's own"),
        ("teachers: {a: {}}\nkd_rte: 1", "spec.yaml:2: kd_rte: unknown field 'kd_rte' (did you mean 'kd_rate'?)"),
        ("teachers: {a: {}}\nkd_rate: 2", "spec.yaml:2: kd_rate: Input should be less than or equal to 1, got 2"),
        ("teachers: {3: {}}", "spec.yaml:1: teachers[3]: Input should be a valid string, got 3"),
        (
            "teachers:\n  a:\n    weight: {name: piecewise, points: [[0, 0], [0, 1]]}",
            "spec.yaml:3: teachers.a.weight.points: expected steps in increasing order, got 0 after 0",
        ),
    ],
)
def test_each_problem_has_its_place(text: str, expected: str) -> None:
    [problem] = problems(text)
    assert problem.startswith(expected)


def test_all_problems_come_at_once() -> None:
    text = "teachers:\n  a: {weight: -1, disance: js}\n  b: {preset: nope}\nkd_rate: hot\nengin: eager"
    places = [line.split(": ")[1] for line in problems(text)]
    assert sorted(places) == ["engin", "kd_rate", "teachers.a.disance", "teachers.a.weight", "teachers.b.preset"]


@settings(max_examples=40)
@given(document=near_documents())
def test_a_teacher_is_read_as_a_spec_of_one_is(document: Any) -> None:
    shared = {"kd_rate", "reduction", "engine"}
    fields = {key: value for key, value in document.items() if key not in shared}
    text = json.dumps(fields)
    of_several = json.dumps({"teachers": {"one": fields}})
    try:
        alone = parse_spec(text, syntax="json")
    except SpecFileError as error:
        with pytest.raises(SpecFileError) as caught:
            parse_spec(of_several, MultiTeacherSpec, syntax="json")
        expected = [("teachers", "one", *problem.path) for problem in error.problems]
        assert [problem.path for problem in caught.value.problems] == expected
    else:
        assert parse_spec(of_several, MultiTeacherSpec, syntax="json").pair("one") == alone


def test_the_schema_describes_files() -> None:
    schema = MultiTeacherSpec.model_json_schema()
    Draft202012Validator.check_schema(schema)
    assert Draft202012Validator(schema).is_valid(json.loads(SPEC.model_dump_json()))
    assert not Draft202012Validator(schema).is_valid({"teachers": {"a": {"weight": -1}}})
