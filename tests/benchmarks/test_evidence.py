"""The experiment from end to end, tiny; and what its runs, its queue and its texts promise."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import shutil
import signal
import tarfile
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.evidence import pool
from benchmarks.evidence.__main__ import PUBLISHED, QUICK, main
from benchmarks.evidence.arms import HEADLINE, ORDER, arms_of
from benchmarks.evidence.bench import Bench
from benchmarks.evidence.data import Text, load_texts, texts_of_steps
from benchmarks.evidence.folder import paired
from benchmarks.evidence.journal import Journal, dev_scores, journals
from benchmarks.evidence.models import load_tokenizer, narrowed_tokenizer
from benchmarks.evidence.page import fill
from benchmarks.evidence.plan import Plan, Run
from benchmarks.evidence.queue import best_rate, next_runs, remaining
from benchmarks.evidence.results import results
from benchmarks.evidence.times import measure_times
from benchmarks.evidence.training import Training, carry_out
from benchmarks.evidence.written import write_as_teacher, written_texts
from tests.helpers.processes_of_evidence import Parent

# Models are trained and tuned with every arm, and what is tested is no part of the library.
pytestmark = pytest.mark.minutes

PLAN = Plan.quick()

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("evidence") / "folder"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(["all", "--quick", "--folder", str(made), "--pack", str(made.parent / "found.tar.gz")])
    return made


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_all_arms_are_tuned_and_trained_with_all_seeds(folder: Path) -> None:
    found = journals(folder / "runs")
    finished = dev_scores(found)
    assert len(finished) == len(found) == len(list((folder / "runs").iterdir()))  # no checkpoint is left
    for setting, arm in (("two", "ce"), ("two", "cma-shared"), ("one", "dskd"), ("one", "teacher-text")):
        rate = best_rate(finished, setting, arm, PLAN)  # type: ignore[arg-type]
        assert all(Run(setting, arm, rate, seed) in finished for seed in PLAN.seeds)  # type: ignore[arg-type]
    for journal in found.values():
        kinds = [row["kind"] for row in journal.rows]
        assert kinds == ["start", "step", "step", "dev", "step", "step", "dev", "end"]
        assert all(math.isfinite(row["loss"]) for row in journal.rows if row["kind"] == "step")
        assert len(journal.rows[-1]["nats"]) == PLAN.test_texts


def test_the_report_has_all_arms_and_numbers(folder: Path) -> None:
    found = json.loads((folder / "report" / "evidence.json").read_text(encoding="utf-8"))
    (made_on,) = found["made on"]
    assert made_on["runs"] == len(journals(folder / "runs"))
    assert made_on["hours"] > 0
    assert set(found["baselines"]) == {"teacher", "one", "two"}
    assert found["settings"]["two"]["arms"]["cma-shared"]["minus"]["ce"]["seeds"].keys() == {"0", "1"}
    assert found["settings"]["scarce"]["arms"] == {}
    for rows in found["meaning"].values():
        for name, row in rows.items():
            assert 0 <= row["cka"] <= 1 + 1e-6, name
            assert all(0 <= row[key] <= 1 for key in row if key in ("neighbours", "round trip", "aligned")), name
    assert found["meaning"]["one"]["start"]["aligned"] == 1
    costs = found["costs"]
    assert costs["one"].keys() == {"dskd", "teacher-text"}
    assert costs["two"].keys() == {"ce", "cma-shared"}
    assert found["written"]["texts"] == PLAN.texts["one"]
    assert costs["two"]["ce"]["ratio"] == 1
    assert costs["two"]["cma-shared"]["seconds"] > 0
    assert costs["one"]["dskd"]["ratio"] is None
    for name in ("gains", "curves", "texts", "toy"):
        assert (folder / "report" / f"evidence_{name}.png").read_bytes().startswith(b"\x89PNG")


def test_times_go_on_where_they_were_stopped(folder: Path) -> None:
    file = folder / "times.json"
    whole = json.loads(file.read_text())
    begun = [{**row, "seconds": [9.0] * 8} for row in whole[:3]]
    file.write_text(json.dumps(begun))
    said: list[str] = []
    measure_times(folder, PLAN, (*QUICK, ("scarce", ("ce",))), said.append)
    again = json.loads(file.read_text())
    assert again[:3] == begun
    assert [(row["vocabularies"], row["arm"]) for row in again] == [(row["vocabularies"], row["arm"]) for row in whole]
    assert len(said) == 1
    assert len(again[3]["seconds"]) == 8
    assert all(0 < each < 9 for each in again[3]["seconds"])
    file.write_text(json.dumps([{**whole[0], "machine": "another one"}]))
    with pytest.raises(SystemExit, match="was measured on 'another one'"):
        measure_times(folder, PLAN, QUICK, said.append)
    file.write_text(json.dumps(whole))


def test_a_packed_folder_is_enough_for_a_report(folder: Path, tmp_path: Path) -> None:
    elsewhere, checkout = tmp_path / "elsewhere", tmp_path / "checkout"
    with tarfile.open(folder.parent / "found.tar.gz") as archive:
        archive.extractall(elsewhere, filter="data")
    assert not {file.suffix for file in elsewhere.rglob("*")} & {".pt", ".safetensors", ".bin"}
    for file in PUBLISHED.values():
        (checkout / file).parent.mkdir(parents=True, exist_ok=True)
    page = checkout / PUBLISHED["page"]
    page.write_text((ROOT / PUBLISHED["page"]).read_text(encoding="utf-8"), encoding="utf-8")
    main(["report", "--folder", str(elsewhere), "--beside", str(folder), "--publish", str(checkout)])
    found = json.loads((checkout / PUBLISHED["json"]).read_text(encoding="utf-8"))
    there = json.loads((folder / "report" / "evidence.json").read_text(encoding="utf-8"))
    for name, setting in there["settings"].items():
        assert found["settings"][name]["arms"] == setting["arms"]
    assert {key: found[key] for key in ("plan", "made on", "costs", "written", "meaning", "baselines")} == {
        key: there[key] for key in ("plan", "made on", "costs", "written", "meaning", "baselines")
    }
    assert [other["settings"].keys() for other in found["others"]] == [{"one", "two"}]
    text = page.read_text(encoding="utf-8")
    assert f"{found['settings']['two']['arms']['cma-shared']['mean']:.4f}" in text
    assert f"{found['made on'][0]['runs']} runs on {found['made on'][0]['machine']}" in text
    shown = re.findall(r"!\[.*]\((.*)\)", text)
    assert all((page.parent / file).is_file() for file in shown if not file.endswith("toy.png"))
    fill(page, found, [file.rpartition("/")[2] for file in shown])
    assert page.read_text(encoding="utf-8") == text
    page.write_text(text.replace("<!-- tables -->", ""))
    with pytest.raises(SystemExit, match="expected a place for 'tables'"):
        fill(page, found, ())
    texts = json.loads((elsewhere / "texts.json").read_text(encoding="utf-8"))
    (elsewhere / "texts.json").write_text(json.dumps(texts | {"test": texts["test"][1:]}), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"has 7 texts for tests, of .* measured on 8, of"):
        main(["report", "--folder", str(elsewhere)])
    (elsewhere / "texts.json").unlink()
    without = results(Bench(elsewhere, Plan()), QUICK)["settings"]["two"]["arms"]["cma-shared"]["minus"]["ce"]
    within = found["settings"]["two"]["arms"]["cma-shared"]["minus"]["ce"]
    assert without["interval"] is None
    assert without["seeds"] == pytest.approx(within["seeds"], abs=1e-5)
    with pytest.raises(SystemExit, match="found none of it"):
        main(["report", "--folder", str(tmp_path / "empty")])


def test_a_finished_run_is_not_carried_out_again(folder: Path) -> None:
    bench = Bench(folder, PLAN)
    run = next(iter(journals(folder / "runs")))
    before = bench.journal(run).rows
    carry_out(bench, run, arms_of(run.setting)[run.arm], lambda done, total: pytest.fail("it was trained"))
    assert bench.journal(run).rows == before


@pytest.mark.parametrize(
    ("setting", "arm", "killed_after"),
    [("two", "cma-shared", 3), ("one", "dskd", 1), ("two", "ce", 2)],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    folder: Path, setting: Any, arm: str, killed_after: int
) -> None:
    bench = Bench(folder, PLAN, checkpoint_seconds=0.0)
    run = Run(setting, arm, 0.003, 7)
    whole = carry_out(bench, run, arms_of(setting)[arm], lambda done, total: None)
    rows = bench.journal(run).rows
    (folder / "runs" / f"{run.name}.jsonl").unlink()
    steps = Training(bench, run, arms_of(setting)[arm], bench.journal(run)).steps()
    assert [next(steps) for _ in range(killed_after)][-1] == killed_after
    steps.close()
    with (folder / "runs" / f"{run.name}.jsonl").open("a") as opened:
        opened.write('{"kind": "st')  # killed while it wrote
    again = carry_out(bench, run, arms_of(setting)[arm], lambda done, total: None)
    resumed = bench.journal(run).rows
    (folder / "runs" / f"{run.name}.jsonl").unlink()
    assert without_seconds([again]) == without_seconds([whole])
    assert without_seconds(resumed) == without_seconds(rows)


@pytest.mark.parametrize("setting", ["one", "two"])
def test_every_arm_takes_a_step_from_the_same_student_on_the_same_texts(folder: Path, setting: Any) -> None:
    bench = Bench(folder, replace(PLAN, steps=1, evaluations=1))
    first = {name: value.clone() for name, value in bench.student(setting).state_dict().items()}
    train = bench.texts["train"]
    written = {text.whole: own for text, own in zip(train, written_texts(bench, train), strict=True)}
    given: list[Text] = []
    for name, arm in arms_of(setting).items():
        training = Training(bench, Run(setting, name, 0.001, 3), arm, Journal(folder / "unused.jsonl"))
        assert all(torch.equal(value, first[key]) for key, value in training._student.state_dict().items()), name
        if arm.teacher_text:
            assert training._texts[0] == [written[text.whole] for text in given], name
        else:
            given = given or training._texts[0]
            assert training._texts[0] == given, name
        row = training._step(0)
        assert math.isfinite(row["loss"]), name
        assert "ce" in row, name
        assert (len(row) > 3) == arm.teacher, name
        moved = [not torch.equal(value, first[key]) for key, value in training._student.state_dict().items()]
        assert all(moved), name


@pytest.mark.parametrize("setting", ["one", "two"])
def test_a_student_learns_from_the_teachers_responses(folder: Path, tmp_path: Path, setting: Any) -> None:
    shutil.copytree(folder, tmp_path / "folder", ignore=shutil.ignore_patterns("written.jsonl", "runs"))
    bench = Bench(tmp_path / "folder", replace(PLAN, steps=1, evaluations=1))
    chats = [{"prompt": f"What is {number}?", "response": f" It is {number}."} for number in range(8)]
    bench.texts["train"] = [Text(number, chat) for number, chat in enumerate(chats)]
    write_as_teacher(bench, len(chats), lambda done, total: None)
    arm = arms_of(setting)["teacher-text"]
    training = Training(bench, Run(setting, "teacher-text", 0.001, 3), arm, Journal(folder / "unused.jsonl"))
    for text in training._texts[0]:
        assert text.sample["prompt"] == chats[text.document]["prompt"]
        assert text.sample["response"] != chats[text.document]["response"]
    assert math.isfinite(training._step(0)["loss"])


def test_batches_that_are_kept_on_a_gpu_are_not_those_of_the_teachers_text(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, arms, run = Bench(folder, PLAN), arms_of("one"), Run("one", "unused", 0.001, 0)
    train = bench.texts["train"][:2]
    assert bench.store is not None  # read before the device is another one
    bench.device = SimpleNamespace(type="cuda")  # type: ignore[assignment]
    monkeypatch.setattr("benchmarks.evidence.bench.on_device", lambda batch, device: batch)
    given = bench.batches(arms["ce"], run)(0, train)
    written = bench.batches(arms["teacher-text"], run)(0, written_texts(bench, train))
    assert not torch.equal(given["student_input_ids"], written["student_input_ids"])
    assert bench.batches(arms["ce-longer"], run)(0, []) is given
    assert bench.batches(arms["teacher-text"], run)(0, []) is written


def test_killed_workers_and_a_killed_parent_leave_the_same_rows(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "folder"
    shutil.copytree(folder, copy)
    for file in (copy / "runs").glob("two-cma-shared-*"):
        file.unlink()
    parent = Parent(copy, tmp_path / "said")
    parent.wait_for("dev")  # so that both workers have begun
    os.kill(parent.workers[0], signal.SIGKILL)
    parent.wait_for("It is done again.")
    parent.kill()
    main(["runs", "--quick", "--folder", str(copy)])
    found, wanted = journals(copy / "runs"), journals(folder / "runs")
    # Two workers may try a rate more: they do not wait for one another to see which neighbour is better.
    for run, journal in wanted.items():
        assert without_seconds(found[run].rows) == without_seconds(journal.rows), run


def test_a_worker_whose_parent_was_killed_leaves_its_run_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "parent_process", lambda: SimpleNamespace(is_alive=lambda: False))
    monkeypatch.setattr(pool.os, "_exit", lambda code: pytest.fail("it has begun"))
    run = Run("two", "ce", 0.123, 0)
    ours, theirs = Pipe()
    ours.send(run)
    pool._work(pool.Setup(folder=folder, plan=PLAN, device="cpu", searches=False, threads=1), theirs)
    assert not ours.poll()
    assert not (folder / "runs" / f"{run.name}.jsonl").exists()


def test_another_plan_is_refused(folder: Path) -> None:
    with pytest.raises(SystemExit, match="batch_size was 4, is 5"):
        Bench(folder, replace(PLAN, batch_size=5)).write_plan()


@pytest.mark.parametrize("best", [-4, -1, 0, 2, 4])
def test_the_queue_tunes_each_arm_and_does_nothing_twice(best: int) -> None:
    plan = Plan()
    finished: dict[Run, float] = {}
    while runs := list(next_runs(ORDER, finished, plan, HEADLINE)):
        assert not finished.keys() & runs
        assert len(set(runs)) == len(runs)
        finished |= {run: abs(math.log2(run.lr / plan.first_lr[run.setting]) - best) for run in runs}
    assert remaining(ORDER, finished, plan) == 0
    for setting, arms in ORDER:
        for arm in arms:
            wanted = plan.first_lr[setting] * 2.0**best
            assert best_rate(finished, setting, arm, plan) == wanted
            seeds = {run.seed for run in finished if (run.setting, run.arm, run.lr) == (setting, arm, wanted)}
            assert seeds == ({0, 1, 2, 3, 4} if (setting, arm) in HEADLINE else {0, 1, 2})


def test_every_arm_is_in_the_queue_once() -> None:
    queued = [(setting, arm) for setting, arms in ORDER for arm in arms]
    assert len(queued) == len(set(queued))
    for setting in ("one", "two"):
        assert {arm for name, arm in queued if name == setting} == set(arms_of(setting))  # type: ignore[arg-type]
    assert all(arm in arms_of(setting) for setting, arm in queued)
    assert set(queued) >= HEADLINE


@pytest.mark.parametrize("from_file", [False, True])
def test_parts_have_no_document_and_no_text_in_common(folder: Path, tmp_path: Path, from_file: bool) -> None:
    file = tmp_path / "chats.jsonl"
    lines = [{"prompt": f"What is {number}?", "response": f" It is {number}."} for number in range(90)]
    file.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    parts = load_texts(PLAN, file) if from_file else Bench(folder, PLAN).texts
    assert set(parts) == {"test", "dev", "train", "heal"}
    apart = [parts[name] for name in ("test", "dev", "train", "heal")]
    for read in (lambda text: text.document, lambda text: text.whole):
        kinds = [{read(text) for text in part} for part in apart]
        assert sum(map(len, kinds)) == len(set.union(*kinds))
    if from_file:
        assert parts["test"][0].scored_bytes == len(parts["test"][0].sample["response"])


def test_a_narrowed_tokenizer_writes_every_text_with_tokens_of_the_whole(folder: Path) -> None:
    whole = load_tokenizer(folder / "whole-teacher")
    texts = [text.whole for text in Bench(folder, PLAN).texts["train"]]
    narrowed, kept = narrowed_tokenizer(whole, texts, 400)
    assert len(narrowed) == len(kept) == 400
    for text in (*texts[:5], "naïve 漢字 🙂\t\n  x"):
        ids = narrowed(text)["input_ids"]
        assert ids[0] == narrowed.bos_token_id
        assert whole.decode(kept[ids[1:]]) == text
        assert whole.convert_ids_to_tokens(kept[ids]) == narrowed.convert_ids_to_tokens(ids)


def test_steps_have_the_same_texts_for_the_same_seed() -> None:
    texts = [Text(number, {"text": str(number)}) for number in range(10)]
    steps = texts_of_steps(texts, 3, 6, 4)
    assert steps == texts_of_steps(texts, 3, 6, 4)
    assert steps[:4] == texts_of_steps(texts, 3, 4, 4)
    assert steps != texts_of_steps(texts, 4, 6, 4)
    seen = [text.document for step in steps for text in step]
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))


def test_paired_differences() -> None:
    texts = [Text(number // 2, {"text": "x" * 10}) for number in range(8)]
    theirs = {seed: [1.0 + number for number in range(8)] for seed in (0, 1)}
    ours = {seed: [value - (1.0 + seed) for value in theirs[0]] for seed in (0, 1, 2)}
    found = paired(ours, theirs, texts)
    assert found["seeds"] == pytest.approx({"0": -0.1, "1": -0.2})
    assert (found["mean"], found["from"], found["to"]) == pytest.approx((-0.15, -0.2, -0.1))
    assert found["interval"] == pytest.approx([-0.2, -0.1])
    same = paired(theirs, theirs, texts)
    assert (same["mean"], *same["interval"]) == (0, 0, 0)
