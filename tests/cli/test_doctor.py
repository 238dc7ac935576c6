"""`dskd doctor`: two folders in, findings out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

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
    assert set(report) == {"passed", "findings", "costs", "recommendation", "starts"}
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
    assert "with the aligner 'cma'" in dskd("doctor", *pair, "--tokens", 0).out
    assert dskd("doctor", *pair, "--spec", "dskd", "--tokens", 0).code == 1


def test_what_cannot_be_read_is_named(dskd: Callable[..., Ran], folders: dict[str, Path], tmp_path: Path) -> None:
    pair = folders["student"], folders["teacher"]
    missing, empty = tmp_path / "missing", tmp_path / "empty.txt"
    empty.write_text("\n\n")
    cases: list[tuple[tuple[object, ...], str]] = [
        ((missing, pair[1]), f"{missing}: there is no such folder"),
        ((tmp_path, pair[1]), "no config.json"),
        ((folders["text"], pair[1]), "expected a folder"),
        ((*pair, "--spec", "dskd-v3"), "neither such a file nor such a preset"),
        ((*pair, "--text", missing), f"--text {missing}"),
        ((*pair, "--text", empty), "holds no text"),
        ((*pair, "--device", "abacus"), "--device abacus"),
    ]
    for arguments, words in cases:
        ran = dskd("doctor", *arguments, "--tokens", 0)
        assert ran.code
        assert ran.out == ""
        assert words in " ".join(ran.err.split()), ran.err


def test_a_model_that_is_not_here(dskd: Callable[..., Ran], folders: dict[str, Path]) -> None:
    ran = dskd("doctor", "nobody-has-this", folders["teacher"])
    assert ran.code
    assert "nobody-has-this: there is no folder of this name here" in " ".join(ran.err.split())
