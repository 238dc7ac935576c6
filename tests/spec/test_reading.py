"""Spec files: what is read from them, and the one line that each problem gets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from dskd_components import DSKDSpec, SpecFileError, load_spec
from dskd_components.distances import JS, SkewKL
from dskd_components.spaces import StudentSpace, TeacherSpace
from dskd_components.spec import parse_spec
from dskd_components.spec.presets import PRESETS

if TYPE_CHECKING:
    from pathlib import Path

YAML = """
preset: dskd-cma          # a published method
temperature: 2
kd_rate: 1e-1
temperature_squared: yes
distance: {name: skew_kl, alpha: 0.3}
spaces:
  - student
  - name: teacher
    distance: js
"""
SPEC = DSKDSpec.preset(
    "dskd-cma",
    temperature=2,
    kd_rate=0.1,
    temperature_squared=True,
    distance=SkewKL(alpha=0.3),
    spaces=[StudentSpace(), TeacherSpace(distance=JS())],
)


def test_yaml(tmp_path: Path) -> None:
    for name in ("spec.yaml", "spec.yml", "spec"):
        (tmp_path / name).write_text(YAML, encoding="utf-8")
        assert load_spec(tmp_path / name) == load_spec(str(tmp_path / name)) == SPEC


def test_json(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(SPEC.model_dump(mode="json"), indent="\t"), encoding="utf-8-sig")
    assert load_spec(tmp_path / "spec.json") == SPEC


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset(name: str) -> None:
    assert parse_spec(f"preset: {name}") == DSKDSpec.preset(name)
    assert parse_spec(json.dumps({"preset": name, "kd_rate": 1}), syntax="json") == DSKDSpec.preset(name, kd_rate=1)


def test_no_fields_are_the_defaults() -> None:
    assert parse_spec("{}") == parse_spec("{}", syntax="json") == DSKDSpec()


FIELDS = "distance, aligner, t2s_projector, s2t_projector, spaces, temperature"
PROBLEMS = {
    # What a spec does not have or does not take
    "temperature: -1": "f:1: temperature: Input should be greater than 0, got -1",
    "kd_rate: 0.5\n\ntemprature: 1": "f:3: temprature: unknown field 'temprature' (did you mean 'temperature' or ",
    "spaces:\n- student\n- {name: teacher,\n   distance: {name: skew_kl,\n     alpha: 2}}": "f:5: "
    "spaces[1].distance.alpha: Input should be less than 1, got 2",
    "spaces: [student, student]": "f:1: spaces: expected different spaces, got 'student' twice",
    "spaces: []": "f:1: spaces: expected at least one space",
    "distance:\n  alpha: 3": "f:1: distance: expected a mapping with the distance's name under 'name', got {'alpha'",
    "distance: {name: kl, 3: 4}": "f:1: distance[3]: unknown field 3; the fields are name",
    "'': 1": f"f:1: ['']: unknown field ''; the fields are preset, {FIELDS}",
    "spaces: student": "f:1: spaces: expected a list, got 'student': write [student]",
    "spaces: student, teacher": "f:1: spaces: expected a list, got 'student, teacher': write [student, teacher]",
    "spaces: {student: {}}": "f:1: spaces: expected a list, got {'student': {}}",
    "weights: 0.5": "f:1: weights: expected a mapping, names with values, got 0.5",
    "weights: [s2t_kd]": "f:1: weights: expected a mapping, names with values, got ['s2t_kd']",
    # Presets
    "preset: dskd-cm": "f:1: preset: unknown preset 'dskd-cm' (did you mean 'dskd-cma'",
    "temperature: 1\npreset: [dskd]": "f:2: preset: expected the name of a preset, got ['dskd']",
    "presett: dskd": "f:1: presett: unknown field 'presett' (did you mean 'preset'?)",
    # Code by path is a name that nothing has
    "distance: os.path:join": "f:1: distance: unknown distance 'os.path:join'; installed: adaptive_kl",
    "distance: {name: dskd_components.distances.KL}": "f:1: distance.name: unknown distance 'dskd_comp",
    # YAML that is more than data
    "distance: !!python/object/apply:os.system [ls]": "f:1: distance: expected a plain value, got one with the tag "
    "'tag:yaml.org,2002:python/object/apply:os.system'; tags are not read",
    "distance: !local {name: kl}": "f:1: distance: expected a plain value, got one with the tag '!local'",
    "temperature: &t 2\nteacher_temperature: *t": "f:2: teacher_temperature: expected a value, got an alias",
    "spaces: &s [*s]": "f:1: spaces[0]: expected a value, got an alias",
    "temperature: !!int hot": "f:1: temperature: expected a value of type int, got 'hot'",
    "<<: {temperature: 2}": "f:1: ['<<']: unknown field '<<'",
    "? {a: 1}\n: 2": "f:1: expected a word as the key in line 1, got a structure",
    "kd_rate: 0.1\nkd_rate: 0.2": "f:2: kd_rate: written twice",
    "temperature: .nan": "f:1: temperature: Input should be a finite number, got nan",
    # No document, or none of a spec
    "": "f:1: expected the fields of a spec, `temperature: 2` for example, got nothing",
    "- kl": "f:1: expected the fields of a spec, `temperature: 2` for example, got ['kl']",
    "dskd-cma": "f:1: expected the fields of a spec, `temperature: 2` for example, got 'dskd-cma'",
    "a: 1\n---\nb: 2": "f:2: not valid YAML: but found another document",
    "distance: kl\n\ttemperature: 2": r"f:2: not valid YAML: found character '\t' that cannot start any token",
    "distance: \x00": "f: not valid YAML: unacceptable character",
    "[" * 5000: "f: nested more deeply than any spec is",
}
JSON_PROBLEMS = {
    '{"kd_rate": 0.1,\n "kd_rate": 0.2}': "f: kd_rate: written twice",
    '{"spaces": ["student", {"name": "teacher", "weight": 1, "weight": 2}]}': "f: spaces[1].weight: written twice",
    '{"temperature": NaN}': "f: temperature: Input should be a finite number, got nan",
    '{"temperature": 1,\n}': "f:2: not valid JSON: ",
    '{"temperature": ' + "1" * 5000 + "}": "f: not valid JSON: Exceeds the limit",
    "": "f:1: not valid JSON: ",
    "null": "f:1: expected the fields of a spec, `temperature: 2` for example, got nothing",
    "[" * 100_000: "f: nested more deeply than any spec is",
}


@pytest.mark.parametrize(("text", "expected"), PROBLEMS.items())
def test_a_problem_in_yaml(text: str, expected: str) -> None:
    with pytest.raises(SpecFileError) as caught:
        parse_spec(text, source="f")
    assert str(caught.value).startswith(expected)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("text", "expected"), JSON_PROBLEMS.items(), ids=[text[:40] for text in JSON_PROBLEMS])
def test_a_problem_in_json(text: str, expected: str) -> None:
    with pytest.raises(SpecFileError) as caught:
        parse_spec(text, syntax="json", source="f")
    assert str(caught.value).startswith(expected)
    assert len(str(caught.value).splitlines()) == 1


def test_all_problems_come_at_once() -> None:
    with pytest.raises(SpecFileError) as caught:
        parse_spec(
            "preset: x\ntemperature: 0\ndistance: k1\nspaces: [student, {name: teacher, weight: -1}]", source="f"
        )
    assert [line.split(": ")[:2] for line in str(caught.value).splitlines()] == [
        ["f:1", "preset"],
        ["f:2", "temperature"],
        ["f:3", "distance"],
        ["f:4", "spaces[1].weight"],
    ]
    assert [problem.path for problem in caught.value.problems][3] == ("spaces", 1, "weight")


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"distance: caf\xe9")
    for name, reason in {
        "absent.yaml": "No such file",
        ".": "Is a directory",
        "latin.yaml": "not text in UTF-8",
    }.items():
        with pytest.raises(SpecFileError, match=f"cannot be read: .*{reason}") as caught:
            load_spec(tmp_path / name)
        assert str(tmp_path) in str(caught.value)
