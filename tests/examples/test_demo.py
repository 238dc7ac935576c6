"""The demo from end to end, tiny, and what it claims about itself."""

from __future__ import annotations

import contextlib
import io
import json
import struct
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dskd_components import DSKDLoss, DSKDSpec, get_aligner, get_space
from examples.distil_two_tokenizers import distil, main
from examples.two_tokenizers.batches import true_correspondence
from examples.two_tokenizers.models import new_student, new_teacher
from examples.two_tokenizers.preparation import Preparation, prepare
from examples.two_tokenizers.settings import Settings
from examples.two_tokenizers.text import load_corpus, normalised
from tests.helpers.registered import names

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def printed(folder: Path) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        main(["--quick", "--output", str(folder / "output")])
    return stdout.getvalue()


@pytest.fixture(scope="module")
def results(printed: str, folder: Path) -> dict[str, Any]:
    assert printed
    loaded: dict[str, Any] = json.loads((folder / "output" / "results.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def prepared() -> Preparation:
    return prepare(Settings.quick())


def test_everything_is_written_to_the_output_folder(results: dict[str, Any], folder: Path) -> None:
    assert results
    assert [path.name for path in folder.iterdir()] == ["output"]
    assert {path.name for path in (folder / "output").iterdir()} == {"results.json", "curves.png", "alignment.png"}
    for name in ("curves.png", "alignment.png"):
        content = (folder / "output" / name).read_bytes()
        width, height = struct.unpack(">II", content[16:24])
        assert content.startswith(b"\x89PNG")
        assert width > 500
        assert height > 400
        assert len(content) < 200_000


def test_losses_fall(results: dict[str, Any]) -> None:
    for run in (results["teacher"], *results["students"]):
        (_, untrained), *_, (_, trained) = run["held_out"]
        assert trained["nats_per_byte"] < untrained["nats_per_byte"]
        assert run["log"]["loss"][-1] < run["log"]["loss"][0]


def test_the_table_is_what_the_file_says(results: dict[str, Any], printed: str) -> None:
    for arm, measures in results["summary"].items():
        tokens, byte, accuracy = (measures[name] for name in ("nats_per_token", "nats_per_byte", "accuracy"))
        assert f"{tokens['mean']:.3f}" in printed
        assert f"{byte['mean']:.3f}" in printed
        assert f"{100 * accuracy['mean']:.1f}" in printed
        if arm != "teacher":
            assert f"{byte['mean']:.3f} ± {byte['sd']:.3f}" in printed
    assert "Took" in printed


def test_students_of_a_seed_differ_in_the_loss_alone(results: dict[str, Any]) -> None:
    for seed in results["settings"]["seeds"]:
        alone, *distilled = (run for run in results["students"] if run["seed"] == seed)
        assert [run["arm"] for run in (alone, *distilled)] == ["ce", "dskd-cma", "dskd-exact-match"]
        for run in distilled:
            assert run["initial_weights"] == alone["initial_weights"]
            assert run["batches"] == alone["batches"]
            assert run["held_out"][0] == alone["held_out"][0]
            assert run["log"]["ce"][0] == pytest.approx(alone["log"]["ce"][0], rel=1e-5)
    seeds = {(run["initial_weights"], run["batches"]) for run in results["students"]}
    assert len(seeds) == len(results["settings"]["seeds"])


def test_no_held_out_paragraph_is_in_the_training_text() -> None:
    corpus = load_corpus(chunk_bytes=256)
    train, held_out = (
        {normalised(paragraph) for chunk in part for paragraph in chunk.split("\n\n")}
        for part in (corpus.train, corpus.held_out)
    )
    long_enough_to_tell = {paragraph for paragraph in held_out if len(paragraph) > 100}
    assert len(long_enough_to_tell) > 50
    assert not long_enough_to_tell & train


def test_both_tokenizers_stand_for_every_character(prepared: Preparation) -> None:
    text = "The café — naïve  two\n  spaces 🙂 <0x41>."
    for tokenizer in (prepared.student_tokenizer, prepared.teacher_tokenizer):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert len(prepared.student_tokenizer) != len(prepared.teacher_tokenizer)


def test_true_correspondence_pairs_equal_characters(prepared: Preparation) -> None:
    for example in prepared.held_out_examples:
        pairs = [(s, t) for s, t in enumerate(true_correspondence(example)) if t >= 0]
        assert pairs == sorted(pairs, key=lambda pair: pair[1])
        for student_position, teacher_position in pairs:
            assert example.student.spans[student_position + 1] == example.teacher.spans[teacher_position + 1]


TRAINED = {
    **{
        f"aligner {name}": DSKDSpec.preset("dskd-cma", aligner=name)
        for name in names("aligner")
        if not get_aligner(name).same_tokenizer
    },
    **{
        f"space {name}": DSKDSpec(spaces=[name], aligner="span")
        for name in names("space")
        if not get_space(name).one_vocabulary
    },
}


@pytest.mark.parametrize("spec", TRAINED.values(), ids=TRAINED.keys())
def test_everything_registered_for_two_tokenizers_trains_in_the_loop(spec: DSKDSpec, prepared: Preparation) -> None:
    settings = Settings.quick()
    size = {"layers": 1, "max_length": settings.max_length, "seed": 0}
    tokenizers = prepared.student_tokenizer, prepared.teacher_tokenizer
    student = new_student(tokenizers[0], width=settings.student_width, **size)
    teacher = new_teacher(tokenizers[1], width=settings.teacher_width, **size).requires_grad_(False)
    loss_fn = DSKDLoss.from_models(spec, student, teacher, *tokenizers)
    before = [parameter.detach().clone() for parameter in (*student.parameters(), *loss_fn.parameters())]
    batches = prepared.training_batches("student", settings.batch_size, 12, seed=0)
    log = list(distil(student, teacher, loss_fn, batches, lr=settings.student_lr, projector_lr=settings.projector_lr))
    assert all(value.isfinite() for step in log for value in step.values())
    assert log[-1]["ce"] < log[0]["ce"]
    after = [*student.parameters(), *loss_fn.parameters()]
    assert not any(torch.equal(ours, theirs) for ours, theirs in zip(after, before, strict=True))
