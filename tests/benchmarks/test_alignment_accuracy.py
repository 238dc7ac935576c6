"""What is measured of attention and of pairs of tokenizers is what one would count by hand; and the commands, tiny."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks.evidence import attention, tokenizer_pairs
from benchmarks.evidence.attention import Bench, Plan, carry_out, runs_of
from benchmarks.evidence.attention_counts import Measured, known, measure
from benchmarks.evidence.attention_pairs import Pair, Sizes, Texts, new_model, tokenizer_of
from benchmarks.evidence.page import fill_places
from dskd_components.tokenization import tokenize_with_spans
from dskd_components.tokenization.span_groups import exact_match_pairs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXTS = ("The map of a name, the map of a map.\n", "x = f(3.14)  # naïve", "of the of the of the")


def quietly(command: Callable[[list[str]], None], *arguments: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        command(list(arguments))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("attention") / "folder"
    quietly(attention.main, "--quick", "--folder", str(made))
    return made


@pytest.fixture(params=["llama2", "bytes"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param, "gpt2", Texts(TEXTS, {"a": TEXTS}), Sizes(student=(32, 1), teacher=(32, 1)))


def models_of(pair: Pair) -> dict[str, Any]:
    return {side: new_model(len(vocabulary), 32, 1) for side, vocabulary in pair.vocabularies.items()}


def pairs_by_hand(pair: Pair) -> list[tuple[int, int, int]]:
    """Row and positions of exact pairs whose tokens are both predicted: the position is the one before the token."""
    found = []
    for row, text in enumerate(TEXTS):
        student, teacher = (
            tokenize_with_spans(pair.tokenizers[side], text, add_special_tokens=True) for side in ("student", "teacher")
        )
        found += [(row, one - 1, other - 1) for one, other in exact_match_pairs(student, teacher) if one and other]
    return found


class Looking:
    """Stands for a loss whose attention looks where it is told."""

    def __init__(self, weights: torch.Tensor) -> None:
        self.student_to_teacher = weights

    def align(self, student: object, teacher: object) -> Looking:
        return self


def test_attention_is_measured_as_one_would_count(pair: Pair) -> None:
    measured, models = Measured(pair, TEXTS), models_of(pair)
    states = measured.states(models)
    shape = len(TEXTS), states["student"].targets.shape[1], states["teacher"].targets.shape[1]
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(0)).softmax(-1)
    by_hand = pairs_by_hand(pair)
    assert len(by_hand) > 6
    found = measure(Looking(weights), models, measured)  # type: ignore[arg-type]
    rows = [(weights[row, one], other) for row, one, other in by_hand]
    assert found["exact"] == pytest.approx(sum(int(of.argmax()) == other for of, other in rows) / len(rows))
    assert found["weight"] == pytest.approx(float(sum(of[other] for of, other in rows) / len(rows)), abs=1e-6)
    assert found["later"] == pytest.approx(
        float(sum(of[other + 1 :].sum() for of, other in rows) / len(rows)), abs=1e-6
    )
    right = torch.zeros(shape)
    for row, one, other in by_hand:
        right[row, one, other] = 1
    perfect = measure(Looking(right), models, measured)  # type: ignore[arg-type]
    assert (perfect["exact"], perfect["weight"], perfect["later"]) == (1, 1, 0)


def test_baselines_are_what_one_would_count(pair: Pair) -> None:
    measured, models = Measured(pair, TEXTS), models_of(pair)
    states, by_hand = measured.states(models), pairs_by_hand(pair)
    found = known(models, measured)
    lengths = {side: states[side].scored.sum(1).tolist() for side in states}
    assert found["pairs"] == len(by_hand)
    assert found["tokens"] == sum(lengths["student"])
    assert found["uniform"] == pytest.approx(sum(1 / lengths["teacher"][row] for row, _, _ in by_hand) / len(by_hand))
    diagonal = [int((one + 0.5) * lengths["teacher"][row] / lengths["student"][row]) for row, one, _ in by_hand]
    hits = sum(place == other for place, (_, _, other) in zip(diagonal, by_hand, strict=True))
    assert found["diagonal"] == pytest.approx(hits / len(by_hand))
    ids = pair.batch(TEXTS)["teacher_input_ids"].tolist()

    def alike(row: int, place: int) -> int:
        wanted = ids[row][place : place + 2]
        return sum(ids[row][at : at + 2] == wanted for at in range(lengths["teacher"][row]))

    assert found["ceiling"] == pytest.approx(sum(1 / alike(row, other) for row, _, other in by_hand) / len(by_hand))
    assert found["ceiling"] < 1  # "of the of the of the"


def test_ids_are_numbered_anew_and_nothing_else_changes(pair: Pair) -> None:
    batch = pair.batch(TEXTS)
    for side, vocabulary in pair.vocabularies.items():
        for row, text in enumerate(TEXTS):
            ids = pair.tokenizers[side](text)["input_ids"]
            assert vocabulary.ids[batch[f"{side}_input_ids"][row, : len(ids)]].tolist() == ids
    mapped, same = pair.teacher_to_student
    assert same.sum() > 5
    for number in same.nonzero().flatten().tolist():
        ours = pair.tokenizers["student"].decode(pair.vocabularies["student"].ids[mapped[number]])
        theirs = pair.tokenizers["teacher"].decode(pair.vocabularies["teacher"].ids[number])
        assert ours.strip() == theirs.strip()


def test_every_run_is_measured_at_every_moment(folder: Path) -> None:
    found = json.loads((folder / "attention.json").read_text(encoding="utf-8"))
    plan = Plan.quick()
    assert len(found["runs"]) == len(runs_of(plan)) == len({run.name for run in runs_of(plan)})
    for run in found["runs"]:
        assert [row["step"] for row in run["rows"]] == list(plan.long if run["long"] else plan.moments)
        for row in run["rows"]:
            for kind in ("documentation", "code"):
                assert all(0 <= row[kind][name] <= 1 for name in ("exact", "weight", "later", "span"))
    first = {run["way"]: run["rows"][0]["documentation"] for run in found["runs"] if run["student"] == "llama2"}
    at_random = found["known"]["llama2"]["documentation"]["uniform"]
    assert first["shared"]["exact"] > 5 * at_random
    assert first["shared"] == first["shared, no target"]  # values have no part in where it looks
    assert first["published"]["weight"] < 3 * at_random
    assert (folder / "attention_accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_finished_is_not_done_again_and_what_was_killed_is(folder: Path, monkeypatch: Any) -> None:
    bench, run = Bench(folder, Plan.quick()), runs_of(Plan.quick())[0]
    file = folder / "runs" / f"{run.name}.jsonl"
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole[: whole.index("\n") + 30], encoding="utf-8")  # killed as it wrote the second row
    carry_out(bench, run)
    again = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert again[:-1] == [json.loads(line) for line in whole.splitlines()][:-1]
    monkeypatch.setattr(attention, "loss_of", lambda *_: pytest.fail("it was trained"))
    carry_out(bench, run)
    with pytest.raises(SystemExit, match="made with other numbers"):
        Bench(folder, replace(Plan.quick(), lr=0.5))


def test_tables_have_a_row_for_each_family_and_each_way(folder: Path, tmp_path: Path) -> None:
    found = json.loads((folder / "attention.json").read_text(encoding="utf-8"))
    page = tmp_path / "page.md"
    page.write_text("<!-- families -->\n<!-- end -->\n<!-- attention -->\n<!-- end -->\n", encoding="utf-8")
    fill_places(page, {"families": attention.families(found), "attention": attention.ways(found)})
    text = page.read_text(encoding="utf-8")
    assert all(f"(`{student}`)" in text for student in found["known"])
    assert all(f"| {title} |" in text for title in found["ways"].values())
    with pytest.raises(SystemExit, match="expected a place for 'other'"):
        fill_places(page, {"other": ""})


@pytest.mark.parametrize("names", [("gpt2", "llama2"), ("llama2", "bytes"), ("bert", "gpt2"), ("gpt2", "gpt2")])
def test_pairs_of_tokenizers_are_counted_as_one_would(names: tuple[str, str]) -> None:
    sides = [[tokenize_with_spans(tokenizer_of(name), text) for text in TEXTS] for name in names]
    found = tokenizer_pairs.counted(*sides)
    exact = covered = 0
    for student, teacher in zip(*sides, strict=True):
        spans = set(zip(teacher.cores.tolist(), teacher.ends.tolist(), strict=True))
        for core, start, end in zip(student.cores.tolist(), student.starts, student.ends.tolist(), strict=True):
            if core >= 0 and (core, end) in spans:
                exact, covered = exact + 1, covered + int(end - start)
    assert (found["exact"], found["exact bytes"]) == (exact, covered)
    assert found["bytes"] == sum(len(text.encode()) for text in TEXTS)
    assert found["right"] <= min(found["warped"], found["exact"])
    assert found["groups"] <= min(found["student tokens"], found["teacher tokens"])
    if names[0] == names[1]:
        assert set(tokenizer_pairs.shares(found).values()) == {1}


def test_the_table_of_tokenizers_is_written(tmp_path: Path) -> None:
    quietly(tokenizer_pairs.main, "--quick", "--folder", str(tmp_path))
    rows = json.loads((tmp_path / "tokenizer_pairs.json").read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 9
    assert tokenizer_pairs.by_family(rows).count("\n") == 4
    assert "several scripts" in tokenizer_pairs.by_kind(rows)
    assert (tmp_path / "tokenizer_pairs.png").read_bytes().startswith(b"\x89PNG")
