"""`dskd doctor`: two folders in, findings out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from dskd_components import load_spec
from tests.helpers.models import TEXTS, tiny_model
from tests.helpers.pairs import sound_pair, tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.helpers.commands import Ran


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A student, a teacher, and a student whose tokenizer has more tokens than it has rows."""
    pair = sound_pair()
    root = tmp_path_factory.mktemp("models")
    models = {
        "student": (pair["student"], pair["student_tokenizer"]),
        "teacher": (pair["teacher"], pair["teacher_tokenizer"]),
        "narrow": (tiny_model("Llama", hidden_size=24, vocabulary=270), tokenizer(280)),
    }
    for name, (model, own) in models.items():
        model.save_pretrained(root / name)
        own.save_pretrained(root / name)
    (root / "text.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    return {path.stem: path for path in root.iterdir()}


def test_a_pair_that_fits(dskd: Callable[..., Ran], folders: dict[str, Path]) -> None:
    ran = dskd("doctor", folders["student"], folders["teacher"], "--text", folders["text"], "--tokens", 64)
    assert ran.code == 0, ran.out + ran.err
    assert ran.err == ""
    lines = ran.out.splitlines()
    assert lines[-1] == "The pair can be trained: errors 0, warnings 0."
    assert "✓ student head: LlamaForCausalLM: logits are its own (280 x 24)." in lines
    assert any(line.startswith("  student forward: ") for line in lines)


def test_a_pair_that_does_not(dskd: Callable[..., Ran], folders: dict[str, Path]) -> None:
    ran = dskd("doctor", folders["narrow"], folders["teacher"], "--tokens", 0)
    assert ran.code == 1
    assert "✗ student vocabulary: the tokenizer has ids up to 279, the model only 270 rows." in ran.out
    assert "It cannot be trained: errors " in ran.out


@pytest.mark.parametrize("student", ["student", "narrow"])
def test_json_is_the_report(dskd: Callable[..., Ran], folders: dict[str, Path], student: str) -> None:
    ran = dskd("doctor", folders[student], folders["teacher"], "--json", "--tokens", 64, columns=20)
    report = json.loads(ran.out)
    assert set(report) == {"passed", "findings", "costs", "recommendation", "recommended_spec", "starts"}
    assert report["passed"] == (student == "student") == (ran.code == 0)
    assert set(report["findings"][0]) == {"severity", "component", "found", "advice"}
    assert bool(report["costs"]) == report["passed"]


def test_a_preset_and_a_file_are_specs(dskd: Callable[..., Ran], folders: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("preset: dskd-v2-eta\n")
    pair = folders["student"], folders["teacher"]
    for spec in ("dskd-v2-eta", file):
        ran = dskd("doctor", *pair, "--spec", spec, "--tokens", 0)
        assert ran.code == 0, ran.out + ran.err
        assert "with the aligner 'exact_match'" in ran.out
    assert dskd("doctor", *pair, "--spec", "dskd", "--tokens", 0).code == 1


@pytest.mark.parametrize("teacher", ["student", "teacher"], ids=["one tokenizer", "two tokenizers"])
def test_what_is_recommended_is_a_spec_file(
    dskd: Callable[..., Ran], folders: dict[str, Path], tmp_path: Path, teacher: str
) -> None:
    pair = folders["student"], folders[teacher]
    first = dskd("doctor", *pair, "--tokens", 0).out
    said = first.splitlines()[-2]
    spec = json.loads(dskd("doctor", *pair, "--tokens", 0, "--json").out)["recommended_spec"]
    assert f"with the aligner {spec['aligner']['name']!r}" in first
    yaml, as_json = tmp_path / "said.yaml", tmp_path / "spec.json"
    yaml.write_text(said.removeprefix("In a spec file: "))
    as_json.write_text(json.dumps(spec))
    again = dskd("doctor", *pair, "--spec", yaml, "--tokens", 0)
    assert again.code == 0, again.out + again.err
    assert again.out.splitlines()[-2] == said
    assert dskd("plan", *pair, "--spec", as_json, "--tokens", 64, "--length", 32).code == 0
    assert load_spec(yaml) == load_spec(as_json)


def test_heads_that_are_narrowed(dskd: Callable[..., Ran], folders: dict[str, Path], tmp_path: Path) -> None:
    ids, numbers, empty = (tmp_path / name for name in ("ids.json", "ids.txt", "empty.txt"))
    ids.write_text(json.dumps(list(range(270))))
    numbers.write_text("1 2\n3, 4")
    empty.write_text(" ")
    options = folders["student"], folders["teacher"], "--text", folders["text"], "--tokens", 0
    ran = dskd(
        "doctor", *options, "--student-tokens", ids, "--teacher-tokens", numbers, "--other-tokens", "one_outcome"
    )
    assert ran.code == 0, ran.out + ran.err
    assert "✓ student tokens: its head is narrowed to 270 of 280 tokens, and the others are one outcome; " in ran.out
    assert "✓ teacher tokens: its head is narrowed to 4 of 300 tokens" in ran.out
    assert "✓ student kept mass: 270 of 280 tokens have 9" in ran.out
    for wrong, words in (
        (("--student-tokens", folders["text"]), "expected ids of tokens, a JSON list or numbers, got '"),
        (("--student-tokens", empty), "or numbers, got nothing"),
        (("--teacher-tokens", tmp_path / "missing"), "cannot be read"),
    ):
        ran = dskd("doctor", *options, *wrong)
        assert ran.code
        assert words in " ".join(ran.err.split()), ran.err


def test_what_cannot_be_read_is_named(dskd: Callable[..., Ran], folders: dict[str, Path], tmp_path: Path) -> None:
    pair = folders["student"], folders["teacher"]
    missing, empty = tmp_path / "missing", tmp_path / "empty.txt"
    empty.write_text("\n\n")
    cases: list[tuple[tuple[object, ...], str]] = [
        ((missing, pair[1]), f"{missing}: there is no such folder"),
        ((tmp_path, pair[1]), "no config.json"),
        ((folders["text"], pair[1]), "expected a folder"),
        ((*pair, "--spec", "dskd-v3"), "neither such a file nor such a preset"),
        ((*pair, "--text", missing), f"--samples {missing}: cannot be read"),
        ((*pair, "--text", empty), "holds no samples"),
        ((*pair, "--device", "abacus"), "--device abacus"),
    ]
    for arguments, words in cases:
        ran = dskd("doctor", *arguments, "--tokens", 0)
        assert ran.code
        assert ran.out == ""
        assert words in " ".join(ran.err.split()), ran.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--other-tokens", "leftout"), "--other-tokens leftout: expected one of one_outcome, left_out (did you mean"),
        (("--other-tokens", "left_out"), "--other-tokens: no head is narrowed. Give --student-tokens or --teacher-tok"),
        (("--columns", "prompt=q"), "--columns: there are no samples. Give --samples"),
        (("--ignore", "id"), "--ignore: there are no samples. Give --samples"),
        (
            ("--samples", "TEXT", "--columns", "prompt=a,prompt=b"),
            "prompt=a,prompt=b: 'prompt' is named twice",
        ),
        (("--teacher-tokens", "IDS", "--teacher-tokens", "IDS"), "--teacher-tokens: given twice for one teacher"),
        (("--spec", "recomended-two-vocabularies"), "(did you mean 'recommended-two-vocabularies'"),
    ],
)
def test_options_without_a_meaning_are_refused(
    dskd: Callable[..., Ran], folders: dict[str, Path], tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    ids = tmp_path / "ids"
    ids.write_text("1 2 3")
    given = ({"IDS": ids, "TEXT": folders["text"]}.get(option, option) for option in options)
    ran = dskd("doctor", folders["student"], folders["teacher"], *given, "--tokens", 0)
    assert ran.code == 1
    assert said in ran.err


def test_a_model_that_is_not_here(dskd: Callable[..., Ran], folders: dict[str, Path]) -> None:
    ran = dskd("doctor", "nobody-has-this", folders["teacher"])
    assert ran.code
    assert "nobody-has-this: there is no folder of this name here" in " ".join(ran.err.split())


SCHEDULED = """
kd_rate: {name: linear, start: 0, end: 0.5, steps: 100}
weights: {s2t_kd: {name: cosine, start: 1, end: 0, steps: 40}}
"""
SEVERAL = """
kd_rate: {name: linear, start: 0, end: 0.5, steps: 100}
teachers:
  large: {preset: dskd-cma, weight: {name: piecewise, points: [[0, 1], [300, 0]]}}
  code: {aligner: span}
"""


def test_a_spec_with_schedules(dskd: Callable[..., Ran], folders: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("preset: dskd-cma\n" + SCHEDULED)
    ran = dskd("doctor", folders["student"], folders["teacher"], "--spec", file, "--tokens", 0)
    assert ran.code == 0, ran.out + ran.err
    for step in (0, 50, 100):
        assert f"✓ batch: after {step} optimizer steps, with kd_rate " in ran.out


def test_a_spec_of_several_teachers(dskd: Callable[..., Ran], folders: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(SEVERAL)
    options = "--spec", file, "--tokens", 0, "--text", folders["text"]
    student, teacher = folders["student"], folders["teacher"]
    ran = dskd("doctor", student, f"large={teacher}", f"code={teacher}", *options)
    assert ran.code == 0, ran.out + ran.err
    large, code = ran.out.removeprefix("teacher large:\n").split("teacher code:\n")
    for part in (large, code):
        assert part.splitlines()[-1].startswith("The pair can be trained: errors 0, ")
        assert "✓ batch: after 150 optimizer steps" in part
    assert "with the aligner 'cma'" in large
    assert "with the aligner 'span'" in code
    ids = tmp_path / "ids"
    ids.write_text("1 2 3")
    narrowing = "--teacher-tokens", f"code={ids}", "--other-tokens", "left_out"
    reports = json.loads(dskd("doctor", student, f"code={teacher}", *options, "--json", *narrowing).out)
    assert any("narrowed to 3 of 300" in finding["found"] for finding in reports["code"]["findings"])
    for wrong in (f"{ids}", f"cod={ids}"):
        ran = dskd("doctor", student, f"code={teacher}", *options, "--teacher-tokens", wrong)
        assert "expected NAME=FILE with one of the teachers 'code'" in " ".join(ran.err.split())
    assert list(reports) == ["code"]
    for wrong, words in (
        (
            [teacher],
            f"TEACHER {teacher}: the spec has the teachers 'large', 'code'; say which one this is: large=FOLDER",
        ),
        ([f"lage={teacher}"], "(did you mean 'large'?)"),
    ):
        ran = dskd("doctor", student, *wrong, *options)
        assert ran.code == 1
        assert words in " ".join(ran.err.split())
    ran = dskd("doctor", student, teacher, teacher, "--tokens", 0)
    assert "TEACHER: expected one, got 2" in ran.err


def test_samples_of_a_file(dskd: Callable[..., Ran], folders: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    row = {"question": TEXTS[0], "answer": TEXTS[1]}
    file.write_text(json.dumps(row) + "\n" + json.dumps(row | {"id": 3}) + "\n")
    pair = folders["student"], folders["teacher"]
    options = "--samples", file, "--tokens", 64
    ran = dskd("doctor", *pair, *options, "--columns", "prompt=question,response=answer")
    assert ran.code == 1
    assert f"✗ samples: 1 of 2 cannot be used (not understood): {file}:2: Unknown key 'id' in a sample" in ran.out
    assert ran.out.splitlines()[-2] == "On the command line these are --columns NAME=KEY,... and --ignore KEY,..."
    file.write_text(json.dumps(row) + "\n")
    ran = dskd("doctor", *pair, *options, "--columns", "prompt=question,response=answer")
    assert ran.code == 0, ran.out + ran.err
    assert "✓ samples: 1 prompt and response: " in ran.out
    assert "in samples of that length" in ran.out
    for columns in ("question", "answr=answer", "response="):
        ran = dskd("doctor", *pair, *options, "--columns", columns)
        assert f"--columns {columns}: expected NAME=KEY" in " ".join(ran.err.split())
    file.write_text('{"text": "a"}\n{"text": \n')
    ran = dskd("doctor", *pair, *options)
    assert ran.code == 1
    assert f"--samples {file}:2: not valid JSON" in ran.err
