"""What the page of evidence says of rows that are made up, number by number."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.evidence import pictures
from benchmarks.evidence.__main__ import main
from benchmarks.evidence.ablation import PAIRS, changes
from benchmarks.evidence.ablation_page import WORDS
from benchmarks.evidence.arms import RECOMMENDED, arms_of
from benchmarks.evidence.bench import Bench
from benchmarks.evidence.data import Text, write_texts
from benchmarks.evidence.journal import Journal
from benchmarks.evidence.page import places
from benchmarks.evidence.pictures import draw_all
from benchmarks.evidence.plan import SETTINGS, Plan
from benchmarks.evidence.results import results
from benchmarks.evidence.search import searched
from benchmarks.evidence.tables import search_table, table
from benchmarks.evidence.written import FILE as WRITTEN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

[BEST] = RECOMMENDED["two"]
HYBRID = "exact-+-hybrid-kd-0.3"
TITLE = arms_of("two")[BEST].title
PLAN = Plan(test_texts=6, first_lr=dict.fromkeys(SETTINGS, 1e-3))
MACHINE = "a machine"
ORDER = (
    ("two", ("ce", "uld-hybrid", BEST, "dskd-cma", "kq", "strict")),
    ("scarce", ("ce", "uld-hybrid", BEST)),
    ("one", ("ce", "dskd-heads")),
)
LOSSES = {
    ("two", "ce"): (1.0, 1.1, 1.2),
    ("two", "uld-hybrid"): (1.0, 1.0, 1.3),
    ("two", BEST): (0.9, 1.0, 1.1),
    ("two", "dskd-cma"): (1.5, math.inf, 1.7),
    ("two", "kq"): (1.4,),
    ("scarce", "ce"): (2.0, 2.0, 2.0),
    ("scarce", BEST): (1.8, 1.9, 1.7),
    ("one", "ce"): (0.5, 0.5, 0.5),
    # The code of today does not know it.
    ("one", "of-another-code"): (0.6, 0.6, 0.6),
}
"""Nats a byte by seed."""


def write_run(folder: Path, setting: str, arm: str, lr: float, seed: int, loss: float, machine: str = MACHINE) -> None:
    start = {"kind": "start", "step": 0, "setting": setting, "arm": arm, "lr": lr, "seed": seed, "machine": machine}
    dev = {"nats_per_byte": loss + (lr != 0.001), "accuracy": 0.25}
    finite = math.isfinite(loss)
    rows = [
        {**start, "threads": 1, "versions": {}},
        {"kind": "step", "step": 1, "seconds": 77.0, "loss": 1.0, "ce": 2.0},
        {"kind": "dev", "step": 50, "seconds": 77.0, **dev},
        {"kind": "dev", "step": 100, "seconds": 77.0, **dev},
        {"kind": "end", "step": 100, "seconds": 360.0, "nats_per_byte": loss, "accuracy": 0.25 if finite else 0.0}
        | {"nats": [10 * loss] * 6 if finite else []},
    ]
    folder.mkdir(exist_ok=True)
    file = folder / f"{setting}-{arm}-{lr:g}-{seed}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def made(folder: Path, losses: Mapping[tuple[str, str], Sequence[float]], machine: str) -> Bench:
    folder.mkdir(exist_ok=True)
    bench = Bench(folder, Plan(batch_size=5))
    bench.write("plan.json", asdict(PLAN))
    write_texts({"test": [Text(number // 2, {"text": "x" * 10}) for number in range(6)]}, folder / "texts.json")
    for (setting, arm), of in losses.items():
        for seed, loss in enumerate(of):
            write_run(folder / "runs", setting, arm, 0.001, seed, loss, machine)
        if arm != "kq":  # whose rate is not tuned
            for lr in (0.0005, 0.002):
                write_run(folder / "runs", setting, arm, lr, 0, of[0], machine)
    return bench


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    bench = made(tmp_path_factory.mktemp("found"), LOSSES, MACHINE)
    folder = bench.folder
    for arm, loss in (("ce", 1.0), ("exact-kd-0.3", 0.9), ("uld", 2.0), ("kq", math.inf)):
        write_run(folder / "search", "two", arm, 0.001, 0, loss)
    both = {"test": {"nats_per_byte": 1.23456, "accuracy": 0.125}}
    bench.write("baselines.json", {"teacher": both, "two": both})
    times = {("two", "ce"): [1, 2, 3], ("two", BEST): [2, 4, 3], ("one", "dskd-heads"): [5, 5, 5]}
    rows = [{"vocabularies": key[0], "arm": key[1], "seconds": of, "machine": "a CPU"} for key, of in times.items()]
    bench.write("times.json", rows)
    for number, seconds in enumerate((600.0, 60.0)):
        row = {"kind": "texts", "step": number + 1, "seconds": seconds, "machine": "a slow one"}
        Journal(folder / WRITTEN).add({**row, "samples": [{"text": "é" * 500}] * 20})
    return json.loads(json.dumps(results(bench, ORDER), allow_nan=False))


def cells(text: str, label: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {label}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_setting(found: Any) -> None:
    text = table(found["settings"]["two"], found)
    lines = text.splitlines()[2:]
    assert [line.split(" |")[1 if line.startswith("| |") else 0][2:].split(" *(")[0] for line in lines][:2] == [
        f"**{TITLE}**",
        "cross entropy alone",
    ]
    seeds = "-0.1000, -0.1000, -0.1000"
    assert cells(text, f"**{TITLE}**") == [
        f"**{TITLE}**", "1.0000", seeds, "-0.1000 to -0.1000", "25.00 %", "0.001", "3.00 (x 2.00)"
    ]  # fmt: skip
    assert cells(text, "cross entropy alone")[1:] == ["1.1000", "", "", "25.00 %", "0.001", "2.00 (x 1.00)"]
    assert cells(text, "`dskd-cma`, as published")[:3] == [
        "`dskd-cma`, as published *(given up in seed 1)*", "1.6000", "+0.5000, +0.5000"
    ]  # fmt: skip
    assert cells(text, "`dskd-cma` with `kq`")[0].endswith("*(1 seed so far; rate not tuned yet)*")
    assert cells(text, "*the student before*")[1:5] == ["1.2346", "", "", "12.50 %"]
    assert cells(text, "*the teacher*")[4] == ""  # of other tokens
    assert "77" not in text  # seconds of runs that share a machine
    assert cells(table(found["settings"]["one"], found), "`of-another-code`")[2] == "+0.1000, +0.1000, +0.1000"


def test_the_headline_compares_what_is_recommended_with_each_rival(found: Any) -> None:
    text = places(found, ())["headline"]
    assert "minus cross entropy alone | minus hybrid ULD | minus CMA as published |" in text
    row = cells(text, "800 texts")
    assert row[1:3] == [TITLE, "1.0000"]
    assert row[3] == "**-0.1000** (-0.1000 to -0.1000)"
    assert row[4].startswith("-0.1000 (-0.")  # no better in the second seed
    assert row[5] == "**-0.6000** (-0.6000 to -0.6000)"  # of the seeds that both have
    few = cells(text, "160 texts, 5 times over")
    assert few[3].startswith("**-0.2000** (")
    assert few[4:] == ["", ""]
    assert "One vocabulary" not in text  # has none


def test_the_gain_over_texts_is_in_percent(found: Any) -> None:
    text = places(found, ())["texts"]
    row = cells(text, "160 texts, 5 times over")
    assert row[1] == "2.0000"
    assert row[-1] == "1.8000 (-10.00: -15.00 to -5.00)"
    assert text.index("160 texts") < text.rindex("800 texts")
    said = "- **Number of texts**: two vocabularies, against cross entropy alone: -10.0 % with 160, -9.1 % with 800."
    assert said in places(found, ())["answer"].splitlines()


def test_the_search_the_costs_and_where_runs_were_made(found: Any) -> None:
    text = places(found, ("evidence_search_two.png",))
    assert "3 ways, 3 runs with one seed; better than cross entropy alone: 1 (1.0000" in text["search"]
    assert cells(text["search"], "`exact kd 0.3`")[1:] == ["-0.1000", "0.001*", "1"]
    assert "evidence_search_two.png" in text["search"]
    assert "evidence_search_one.png" not in text["search"]
    assert cells(text["costs"], TITLE)[1:] == ["3.000", "2.00"]
    assert cells(text["costs"], "`dskd-heads`")[1:] == ["5.000", ""]
    assert (
        "The teacher's text, written once for all runs: 40 texts, 40,000 bytes, 660 seconds, 16.50 a text, on a slow"
        in (text["costs"])
    )
    assert "written once" not in places({**found, "written": None}, ())["costs"]
    runs = sum(map(len, LOSSES.values())) + 2 * (len(LOSSES) - 1)
    assert f"compared: {runs} runs on {MACHINE}, {runs / 10:.1f} hours" in text["state"]
    assert f"searched: 4 runs on {MACHINE}, 0.4 hours" in text["state"]
    assert "begun: `kq`; not begun: `strict`" in text["state"]
    assert "steps of 8 texts" in text["plan"]  # by the folder's plan


FIRST = {
    ("two", "ce"): (1.0, 1.1, 1.2),
    ("two", BEST): (0.9, 1.0, 1.1),
    ("two", "strict"): (0.8, 0.9, 1.0),
    ("two", "exact-heads"): (0.9, 1.05),
    ("two", "span-heads"): (1.0, 1.05, 1.3),
    ("two", "dskd-cma"): (1.5, 1.6),
    ("one", "ce"): (2.0, 2.0, 2.0),
    ("one", "dskd-heads"): (1.6, 1.5, 1.4),
}
SECOND = {
    ("two", "ce"): (2.0, 2.0, 2.0),
    ("two", BEST): (1.8, 1.9, 1.85),
    ("two", "uld"): (2.2, 2.2, 2.2),
    ("two", "min-edit"): (1.7, 1.7, 1.7),
    ("two", "dskd-cma"): (2.0, 2.2, 2.4),
    ("two", "kq"): (2.1,),
    ("one", "ce"): (3.0, 3.0, 3.0),
    ("one", "dskd-heads"): (2.0, 2.0, 2.0),
    ("one", "dskd-js"): (2.1, 2.3, 2.2),
}
CPU = "2 cores, x86_64, Python 3.11.7"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Bench]:
    paths = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    return made(paths[0], FIRST, "NVIDIA X, 16 cores, Python 3.12"), made(paths[1], SECOND, CPU)


@pytest.fixture(scope="module")
def both(folders: tuple[Bench, Bench]) -> Any:
    return json.loads(json.dumps(results(folders[0], BESIDE_ORDER, folders[1:]), allow_nan=False))


BESIDE_ORDER = (("two", ("ce", BEST, "uld", "min-edit", "kq", "strict", "exact-strict")), ("one", ("ce", "dskd-js")))


def test_another_folder_is_kept_beside_the_first_and_differences_stay_within_it(both: Any, folders: Any) -> None:
    [other] = both["others"]
    assert (both["machine"], other["machine"]) == ("NVIDIA X", "a CPU of 2 cores")
    assert [row["machine"] for row in other["made on"]] == [CPU]
    assert set(other["settings"]) == {"one", "two"}
    arms = other["settings"]["two"]["arms"]
    assert set(arms) == {arm for setting, arm in SECOND if setting == "two"}
    assert not set(arms["uld"]) & {"dev", "metrics"}
    assert "not begun" not in other["settings"]["two"]
    assert arms["uld"]["minus"]["ce"]["seeds"] == pytest.approx({"0": 0.2, "1": 0.2, "2": 0.2})
    assert {rival: of["mean"] for rival, of in arms[BEST]["minus"].items()} == pytest.approx(
        {"ce": -0.15, "uld": -0.35, "min-edit": 0.15, "dskd-cma": -0.35}
    )
    alone = results(folders[0], BESIDE_ORDER)
    # What is found in one folder does not depend on what stands beside it.
    assert json.loads(json.dumps(alone["settings"])) == both["settings"]
    assert alone["others"] == []


def test_the_page_has_a_table_of_each_machine_and_says_how_far_they_agree(both: Any) -> None:
    text = places(both, ())
    one, two = text["tables"].split("### Two vocabularies, 800 texts")
    assert one.startswith("### One vocabulary, 800 texts")
    first, second = two.split("The same on a CPU of 2 cores")
    assert cells(first, f"**{TITLE}**")[2] == "-0.1000, -0.1000, -0.1000"
    ours, agreement = second.split("How far NVIDIA X and a CPU of 2 cores agree")
    assert cells(ours, f"**{TITLE}**")[2] == "-0.2000, -0.1000, -0.1500"
    assert cells(ours, "`dskd-cma` with `kq` *(1 seed so far; rate not tuned yet)*")[2] == "+0.1000"
    assert "for 2 of 2 arms the difference to cross entropy alone has the same sign" in agreement
    assert "at most 0.4000 apart" in agreement
    assert cells(agreement, TITLE) == [TITLE, "-0.1000", "-0.1500", "0, 1, 2"]
    assert cells(agreement, "`dskd-cma`, as published")[1:] == ["+0.5000", "+0.1000", "0, 1"]
    assert cells(one.split("How far")[1], "`dskd` from the heads")[1:] == ["-0.5000", "-1.0000", "0, 1, 2"]
    rows = [cells(text["headline"], label) for label in ("800 texts |", "800 texts, on a CPU of 2 cores |")]
    assert [row[3].split(" (")[0] for row in rows] == ["**-0.1000**", "**-0.1500**"]
    assert [row[4].split(" (")[0] for row in rows] == ["", "**-0.3500**"]
    assert f"on a CPU of 2 cores complete: `ce`, `{BEST}`, `uld`, `min-edit`, `dskd-cma`; " in text["state"]
    assert "on a CPU of 2 cores begun: " in text["state"]
    assert "not begun: `exact-strict`" in text["state"].split("Two vocabularies")[1]
    runs = sum(map(len, SECOND.values())) + 2 * (len(SECOND) - 1)
    assert f"compared: {runs} runs on {CPU}" in text["state"]


def test_the_answer_says_what_is_better_on_which_machine(both: Any, found: Any) -> None:
    text = places(both, ())["answer"]
    assert "CMA as published (" not in text.partition("On a CPU")[0]  # is not complete on the first
    assert f"{TITLE} is better than cross entropy alone (-9.1 %)." in text
    assert "On a CPU of 2 cores, with another student, it is better than cross entropy alone (-7.5 %), ULD (" in text
    assert "; worse than MinED (+8.8 %)." in text
    assert "on a CPU of 2 cores ULD +10.0 %, MinED -15.0 %, CMA as published +10.0 %" in text
    assert "no clear difference to hybrid ULD (-9.1 %)" in places(found, ())["answer"]


def test_folders_of_other_texts_plans_or_without_runs_are_refused(folders: Any, tmp_path: Path) -> None:
    first = folders[0]
    other = made(tmp_path / "other", {("two", "ce"): (1.0,)}, CPU)
    write_texts({"test": [Text(number, {"text": "x" * 10}) for number in range(6)]}, other.folder / "texts.json")
    with pytest.raises(SystemExit, match=r"can't stand beside .*expected the same texts.json in both; they differ"):
        results(first, BESIDE_ORDER, [other])
    (other.folder / "texts.json").unlink()
    with pytest.raises(SystemExit, match=r"other.texts.json is not there"):
        results(first, BESIDE_ORDER, [other])
    other = made(tmp_path / "other", {}, CPU)
    other.write("plan.json", asdict(PLAN) | {"farthest": 2, "steps": 7})
    with pytest.raises(SystemExit, match=r"its plan\.json is another: steps is 7, not 100"):
        results(first, BESIDE_ORDER, [other])
    with pytest.raises(SystemExit, match=r"expected runs/\*.jsonl, to stand beside"):
        results(first, BESIDE_ORDER, [Bench(tmp_path, PLAN)])


def test_another_folder_is_for_a_report_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["runs", "--folder", str(tmp_path), "--beside", str(tmp_path)])
    assert "expected the stage 'report', which reads --beside, got runs" in capsys.readouterr().err


def test_folders_of_machines_alike_have_names_of_their_own(folders: Any) -> None:
    both = results(folders[1], (), [folders[1]])
    names = ["a CPU of 2 cores, folder 1", "a CPU of 2 cores, folder 2"]
    assert [both["machine"], both["others"][0]["machine"]] == names
    [pair] = [pair for pair in both["ablation"] if pair["after"] == "dskd-js"]
    assert [row["machine"] for row in pair["measured"]] == names


def test_the_ablation_is_within_folders_and_over_seeds_that_both_arms_have(both: Any) -> None:
    pairs = {(pair["setting"], pair["before"], pair["after"]): pair for pair in both["ablation"]}
    [spans] = pairs["two", "span-heads", "exact-heads"]["measured"]
    assert spans["machine"] == "NVIDIA X"
    assert spans["minus"]["seeds"] == pytest.approx({"0": -0.1, "1": 0.0})
    assert spans["before"] == pytest.approx(1.025)
    assert not spans["complete"]
    [js] = pairs["one", "dskd-heads", "dskd-js"]["measured"]
    assert (js["machine"], js["complete"], js["rates"]) == ("a CPU of 2 cores", True, [0.001, 0.001])
    assert js["minus"]["mean"] == pytest.approx(0.2)
    # One arm of it is on the first machine, the other on the second.
    assert pairs["two", "min-edit", "strict"]["measured"] == []
    [kq] = pairs["two", "dskd-cma", "kq"]["measured"]
    assert kq["minus"]["seeds"] == pytest.approx({"0": 0.1})
    assert not kq["complete"]
    text = places(both, ("evidence_ablation.png",))["ablation"]
    assert "evidence_ablation.png" in text
    assert "not measured: `dskd-cma` to `exact-linear`, `cma-shared` to `exact-heads`, `min-edit` to `strict`" in text
    assert "Worse: `dskd-heads` to `dskd-js` (+10.0 %); not measured: `dskd-heads` to `dskd-reverse_kl`" in text
    row = cells(text, "one | `dskd` from the heads (`dskd-heads`)")
    assert row[3:] == ["`distance`: `kl` to `js`", "a CPU of 2 cores", "+0.2000 (+0.1000 to +0.3000)", "3"]


def test_a_folder_that_has_the_arm_between_shows_both_steps(folders: Any, tmp_path: Path) -> None:
    losses = {
        ("two", arm): (loss, loss) for arm, loss in (("exact-heads", 1.0), ("exact-+-hybrid", 0.9), (HYBRID, 0.7))
    }
    between = made(tmp_path / "between", losses, "another")
    direct = made(
        tmp_path / "direct", {key: of for key, of in losses.items() if "exact-+-hybrid" not in key}, "a third"
    )
    pairs = results(folders[0], BESIDE_ORDER, [between, direct])["ablation"]
    measured = {
        (pair["before"], pair["after"]): {row["machine"]: round(row["minus"]["mean"], 4) for row in pair["measured"]}
        for pair in pairs
    }
    assert measured["exact-heads", "exact-+-hybrid"] == {"another": -0.1}
    assert measured["exact-+-hybrid", HYBRID] == {"another": -0.2}
    assert measured["exact-heads", HYBRID] == {"a third": -0.3}
    assert measured["strict", BEST] == {"NVIDIA X": 0.1}
    assert measured["strict", "exact-strict"] == {}
    # What is known of the whole is not called unknown of its steps.
    alone = {(pair["before"], pair["after"]): pair["measured"] for pair in results(direct, ())["ablation"]}
    assert alone["exact-heads", HYBRID]
    assert not alone.keys() & {("exact-heads", "exact-+-hybrid"), ("exact-+-hybrid", HYBRID)}


def test_what_changes_is_read_from_the_specs() -> None:
    assert set(WORDS) == {pair.part for pair in PAIRS}, "the page has a paragraph for each part"
    for pair in PAIRS:
        for step in pair.steps:
            arms = {**searched(step.setting), **arms_of(step.setting)}
            assert changes(arms[step.before], arms[step.after]), step
            assert changes(arms[step.after], arms[step.after]) == [], step
    one, two = arms_of("one"), {**searched("two"), **arms_of("two")}
    assert changes(one["dskd-heads"], one["dskd-js"]) == ["`distance`: `kl` to `js`"]
    assert changes(two["exact-linear"], two["exact-heads"]) == [
        "`t2s_projector`: `linear` to `pinv`",
        "`s2t_projector`: `linear` to `live_pinv`",
        "`student.filter`: `correct` to `none`",
    ]
    assert changes(two["exact-heads"], two[HYBRID]) == ["space `uld_hybrid` added", "`kd_rate`: `0.5` to `0.3`"]
    assert changes(one["dskd-heads"], one["teacher-space"]) == ["space `student` left out"]
    fixed = two["exact-+-hybrid-t2s-fixed"]
    assert changes(two["exact-+-hybrid"], fixed) == ["`projector_lr` of training: `1.0` to `0.0`"]


def test_all_pictures_are_drawn_and_old_ones_go(found: Any, tmp_path: Path) -> None:
    (tmp_path / "evidence_search_one.png").write_bytes(b"of before")
    drawn = draw_all(found, tmp_path)
    names = ("gains", "ablation", "texts", "curves", "search_two")
    assert {f"evidence_{name}.png" for name in names} == set(drawn)
    assert {file.name for file in tmp_path.iterdir()} == set(drawn)


def test_pictures_show_the_arms_of_all_machines(both: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, list[str]] = {}
    monkeypatch.setattr(pictures, "_save", lambda figure, path, note=None: shown.update(of_figure(figure)))

    def of_figure(figure: Any) -> dict[str, list[str]]:
        return {axes.get_title(): [label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes}

    draw_all(both, tmp_path)
    gains = "Two vocabularies, 800 texts, on a CPU of 2 cores: test loss minus that of cross entropy alone, %"
    assert shown[gains][:2] == ["shared tokens alone, min_edit", "recommended-two-vocabularies"]
    assert (
        "one: dskd-heads \N{RIGHTWARDS ARROW} dskd-js, on a CPU of 2 cores"
        in shown["Distance: change of the test loss, %"]
    )
    assert shown["Alignment: change of the test loss, %"] == [
        "two: dskd-cma \N{RIGHTWARDS ARROW} kq, on a CPU of 2 cores, not complete",
        "two: span-heads \N{RIGHTWARDS ARROW} exact-heads, not complete",
    ]


def test_what_was_searched_elsewhere_is_told_from_what_was_searched_here(folders: Any, tmp_path: Path) -> None:
    there = made(tmp_path / "searched", {("two", "ce"): (1.0,)}, CPU)
    write_run(there.folder / "search", "two", "shared-T-8", 0.001, 0, 0.9, CPU)
    found = results(folders[0], BESIDE_ORDER, [there])
    [other] = found["others"]
    assert {row["arm"]: row["minus ce"] for row in other["search"]} == pytest.approx({"shared-T-8": -0.1, "ce": 0.0})
    assert f"- searched: 1 runs on {CPU}" in places(found, ())["state"]
    before, _, after = search_table(found).partition("On a CPU of 2 cores, with another student")
    assert "shared T 8" not in before
    assert cells(after, "`shared T 8`")[1:3] == ["-0.1000", "0.001*"]
    assert "On a CPU" not in search_table(results(folders[0], BESIDE_ORDER, folders[1:]))
