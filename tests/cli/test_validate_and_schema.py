"""`dskd validate` and `dskd schema`: the same answer to what a spec is."""

from __future__ import annotations

import io
import json
from functools import cache
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator

from dskd_components import DSKDSpec, MultiTeacherSpec, TeacherSpec
from dskd_components.spec.presets import PRESETS
from tests.helpers.spec_strategies import near_documents

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from tests.helpers.commands import Ran


def test_a_valid_file(dskd: Callable[..., Ran], tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("preset: dskd-cma\nkd_rate: 0.7\n")
    ran = dskd("validate", file)
    assert (ran.code, ran.out, ran.err) == (0, f"{file}: valid\n", "")
    ran = dskd("validate", file, "--resolved", columns=30)
    assert DSKDSpec.model_validate_json(ran.out) == DSKDSpec.preset("dskd-cma", kd_rate=0.7)


def test_each_problem_is_one_line_with_its_path(dskd: Callable[..., Ran], tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("temprature: 2\nspaces:\n  - student\n  - name: teacher\n    distance: {name: js, beta: [1]}\n")
    ran = dskd("validate", file, columns=40)
    assert (ran.code, ran.out) == (1, "")
    first, second = ran.err.splitlines()
    assert first.startswith(f"{file}:1: temprature: unknown field 'temprature' (did you mean 'temperature'")
    assert second == f"{file}:5: spaces[1].distance.beta: Input should be a valid number, got [1]"


DISORDERED = {
    "of one teacher": {
        "kd_rate": 2,
        "temprature": 1,
        "distance": {"name": "js", "beta": [1]},
        "weights": {"t2s_kd": -1, "t2s_kl": 1},
        "nothing": 0,
        "temperature": "hot",
        "spaces": ["student", "nowhere", {"name": "teacher", "distance": "k1"}],
    },
    "of several": {
        "engine": "tild",
        "teachers": {
            "large": {"weight": -1, "widht": 1, "aligner": "spam", "preset": "dskd-cm"},
            "code": {"temperature": 0, "weights": {"t2s_kd": "x"}},
            "none": 3,
        },
        "preset": "dskd",
        "kd_rate": 7,
    },
}


@pytest.mark.parametrize("name", ["spec.yaml", "spec.json"])
@pytest.mark.parametrize("document", DISORDERED)
def test_problems_come_in_the_order_of_the_file(
    dskd: Callable[..., Ran], tmp_path: Path, document: str, name: str
) -> None:
    content = DISORDERED[document]
    file = tmp_path / name
    file.write_text(json.dumps(content) if name.endswith("json") else yaml.safe_dump(content, sort_keys=False))
    found = [line.removeprefix(f"{file}:") for line in dskd("validate", file).err.splitlines()]
    assert len(found) > 5
    if name.endswith("json"):
        first = [line.strip().split(":")[0].split(".")[0].split("[")[0] for line in found]
        assert first == sorted(first, key=list(content).index)
    else:
        lines = [int(line.partition(":")[0]) for line in found]
        assert lines == sorted(lines)


def test_several_files_and_the_standard_input(
    dskd: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good.json").write_text("{}")
    monkeypatch.setattr("sys.stdin", io.StringIO("distance: k1"))
    ran = dskd("validate", tmp_path / "absent.yaml", "-", tmp_path / "good.json")
    assert ran.code == 1
    assert ran.out == f"{tmp_path / 'good.json'}: valid\n"
    absent, piped = ran.err.splitlines()
    assert absent == f"{tmp_path / 'absent.yaml'}: cannot be read: No such file or directory"
    assert piped.startswith("<stdin>:1: distance: unknown distance 'k1' (did you mean 'kl'?)")


def test_markup_in_a_file_is_text(dskd: Callable[..., Ran], tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("distance: '[bold]kl[/nothing]'\n'[red]': 1\n")
    ran = dskd("validate", file)
    assert "unknown distance '[bold]kl[/nothing]'" in ran.err
    assert "['[red]']: unknown field '[red]'" in ran.err


@cache
def validator() -> Draft202012Validator:
    return Draft202012Validator(DSKDSpec.model_json_schema())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=near_documents())
def test_it_accepts_exactly_what_the_schema_accepts(dskd: Callable[..., Ran], tmp_path: Path, document: Any) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(document))
    ran = dskd("validate", file)
    assert (ran.code == 0) == validator().is_valid(document)
    assert all(line.startswith(f"{file}:") for line in (ran.out + ran.err).splitlines())


def test_the_schema(dskd: Callable[..., Ran]) -> None:
    ran = dskd("schema", columns=20)
    schema = json.loads(ran.out)
    Draft202012Validator.check_schema(schema)
    del schema["$schema"]
    assert schema == DSKDSpec.model_json_schema()


def test_the_schema_of_files_has_presets_besides(dskd: Callable[..., Ran]) -> None:
    validator = Draft202012Validator(json.loads(dskd("schema", "--for-files").out))
    for preset in PRESETS:
        assert validator.is_valid({"preset": preset, "kd_rate": 0.3})
    assert not validator.is_valid({"preset": "dskd-cm"})
    assert not validator.is_valid({"preset": "dskd", "temprature": 1})
    assert validator.is_valid({"distance": "tvd"})


def test_a_file_of_several_teachers(dskd: Callable[..., Ran], tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("teachers:\n  large: {preset: dskd-cma, weight: 0.7}\n  code: {aligner: span}\n")
    ran = dskd("validate", file)
    assert (ran.code, ran.out, ran.err) == (0, f"{file}: valid\n", "")
    ran = dskd("validate", file, "--resolved", columns=30)
    spec = MultiTeacherSpec.model_validate_json(ran.out)
    assert spec.teachers["large"] == TeacherSpec.preset("dskd-cma", weight=0.7)
    file.write_text("teachers:\n  large: {preset: dskd-cma, weight: -1}\n")
    ran = dskd("validate", file)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"{file}:2: teachers.large.weight: Input should be greater than or equal to 0, got -1\n"


def test_the_schema_of_several_teachers(dskd: Callable[..., Ran]) -> None:
    document = {"teachers": {"large": {"preset": "dskd-cma", "weight": 0.5}}}
    for options, valid in ((["--multi-teacher"], False), (["--multi-teacher", "--for-files"], True)):
        schema = json.loads(dskd("schema", *options).out)
        Draft202012Validator.check_schema(schema)
        assert Draft202012Validator(schema).is_valid(document) == valid
        assert Draft202012Validator(schema).is_valid({"teachers": {"large": {"weight": 0.5}}})
        assert not Draft202012Validator(schema).is_valid({"teachers": {"large": {"weight": -0.5}}})


def test_a_preset_is_known_wherever_a_name_is_given(dskd: Callable[..., Ran]) -> None:
    words = "'dskd-cma' is a preset: a file with `preset: dskd-cma` is a spec, and `dskd validate --resolved` says what"
    for command in ("validate", "show"):
        ran = dskd(command, "dskd-cma")
        assert ran.code == 1
        assert words in " ".join(ran.err.split()), ran.err
    assert "is a preset" not in dskd("show", "dskd-cmb").err + dskd("validate", "dskd-cmb").err
