"""The demo from end to end, tiny, and what it claims about itself."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from rich.progress import Progress

from dskd_components import DSKDLoss, DSKDSpec, get_aligner, get_space
from examples.distil_two_tokenizers import distil, main
from examples.two_tokenizers import tuning
from examples.two_tokenizers.batches import true_correspondence
from examples.two_tokenizers.measuring import measure
from examples.two_tokenizers.models import new_student, new_teacher
from examples.two_tokenizers.preparation import Preparation, prepare
from examples.two_tokenizers.recording import STUDENT_ARMS
from examples.two_tokenizers.settings import Settings
from examples.two_tokenizers.text import load_corpus, normalised
from tests.helpers.registered import names

if TYPE_CHECKING:
    from pathlib import Path

    from examples.two_tokenizers.batches import Side
    from examples.two_tokenizers.measuring import HeldOut, Score


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


def test_an_output_that_cannot_be_written_is_refused_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SystemExit):
            main(["--quick", "--output", str(output)])
        printed = capsys.readouterr()
        assert "argument --output: expected a folder to write to" in printed.err
        assert printed.out == "", "nothing was trained for it"


def test_losses_fall(results: dict[str, Any]) -> None:
    for run in (results["teacher"], results["pretrained"], *results["students"]):
        (_, untrained), *_, (_, trained) = run["held_out"]
        assert trained["nats_per_byte"] < untrained["nats_per_byte"]
        assert run["log"]["loss"][-1] < run["log"]["loss"][0]


def test_the_table_is_what_the_file_says(results: dict[str, Any], printed: str) -> None:
    for arm, measures in results["summary"].items():
        byte, accuracy = (measures[name] for name in ("nats_per_byte", "accuracy"))
        assert f"{byte['mean']:.3f}" in printed
        assert f"{100 * accuracy['mean']:.1f}" in printed
        if arm not in ("teacher", "pretrained"):
            assert f"{byte['mean']:.3f} ± {byte['sd']:.3f}" in printed
    assert "Took" in printed


def test_differences_are_those_of_students_of_one_seed(results: dict[str, Any], printed: str) -> None:
    last = {(run["arm"], run["seed"]): run["held_out"][-1][1]["nats_per_byte"] for run in results["students"]}
    seeds = results["settings"]["seeds"]
    assert set(results["minus_cross_entropy"]) == {"dskd-cma", "recommended"}
    for arm, found in results["minus_cross_entropy"].items():
        assert found == [last[arm, seed] - last["ce", seed] for seed in seeds]
        assert " ".join(f"{each:+.3f}" for each in found) in printed


def test_students_of_a_seed_differ_in_what_they_learn_from_alone(results: dict[str, Any]) -> None:
    for seed in results["settings"]["seeds"]:
        alone, *distilled = (run for run in results["students"] if run["seed"] == seed)
        assert [run["arm"] for run in (alone, *distilled)] == ["ce", "dskd-cma", "recommended"]
        for run in distilled:
            assert run["batches"] == alone["batches"]
            assert len(run["log"]["loss"]) == len(alone["log"]["loss"])
            assert run["log"]["ce"][0] == pytest.approx(alone["log"]["ce"][0], rel=1e-5)
    assert len({run["batches"] for run in results["students"]}) == len(results["settings"]["seeds"])


def test_every_student_starts_from_the_one_that_has_read_other_text(results: dict[str, Any]) -> None:
    assert len({run["initial_weights"] for run in results["students"]}) == 1
    for run in results["students"]:
        assert run["held_out"][0][1] == results["pretrained"]["held_out"][-1][1]


def test_no_held_out_paragraph_is_in_another_part_of_the_text() -> None:
    corpus = load_corpus(chunk_bytes=256)
    parts = {
        name: {normalised(text) for chunk in part for text in chunk.split("\n\n") if len(text) > 100}
        for name, part in vars(corpus).items()
    }
    assert min(map(len, parts.values())) > 50
    for held_out, other in itertools.product(("dev", "test"), parts):
        assert held_out == other or not parts[held_out] & parts[other], (held_out, other)


def test_texts_of_a_seed_are_chapters_that_the_student_has_not_read(prepared: Preparation) -> None:
    before = {example.text for example in prepared.pretraining}
    assert before < {example.text for example in prepared.train}
    assert not before & {example.text for example in prepared.student_train}
    few = replace(prepared, student_texts=8)
    first, again, other = (few.training_batches("student", 4, 4, seed) for seed in (1, 1, 2))
    rows = [{tuple(row) for batch in batches for row in _texts(batch)} for batches in (first, again, other)]
    assert len(rows[0]) == len(rows[2]) == few.student_texts
    assert rows[0] == rows[1] != rows[2]


def _texts(batch: dict[str, torch.Tensor]) -> list[list[int]]:
    pairs = zip(batch["student_input_ids"], batch["student_attention_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in pairs]


def test_rates_are_tuned_on_texts_on_which_nothing_is_compared(
    prepared: Preparation, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def noted(model: torch.nn.Module, texts: HeldOut, side: Side) -> Score:
        measured.append(texts)
        return measure(model, texts, side)

    monkeypatch.setattr(tuning, "measure", noted)
    monkeypatch.setattr(tuning, "prepare", lambda _settings: prepared)
    settings = replace(Settings.quick(), teacher_steps=2, pretraining_steps=2, steps=2)
    with Progress(disable=True) as progress:
        found = list(tuning.tried(settings, progress, rates=(1e-3,)))
    assert [name for name, _, _ in found] == list(tuning.CANDIDATES)
    assert all(loss > 0 for _, _, loss in found)
    assert all(texts is prepared.dev for texts in measured)
    assert len(measured) == len(found)
    assert {example.text for example in prepared.held_out_examples}.isdisjoint(
        example.text for example in prepared.train
    )
    assert tuning.SEED not in Settings().seeds
    assert set(Settings().student_lrs) == set(STUDENT_ARMS) <= set(tuning.CANDIDATES)
    # The best of a grid is known to be one where both its neighbours were tried.
    assert set(Settings().student_lrs.values()) <= set(tuning.RATES[1:-1])


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
    log = list(
        distil(student, teacher, loss_fn, batches, lr=settings.pretraining_lr, projector_lr=settings.projector_lr)
    )
    assert all(value.isfinite() for step in log for value in step.values())
    assert log[-1]["ce"] < log[0]["ce"]
    after = [*student.parameters(), *loss_fn.parameters()]
    assert not any(torch.equal(ours, theirs) for ours, theirs in zip(after, before, strict=True))
