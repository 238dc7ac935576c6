"""What the page of evidence says of rows that are made up, number by number."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.evidence.arms import RECOMMENDED, arms_of
from benchmarks.evidence.bench import Bench
from benchmarks.evidence.data import Text, write_texts
from benchmarks.evidence.journal import Journal
from benchmarks.evidence.page import places
from benchmarks.evidence.pictures import draw_all
from benchmarks.evidence.plan import Plan
from benchmarks.evidence.results import results
from benchmarks.evidence.tables import table
from benchmarks.evidence.written import FILE as WRITTEN

if TYPE_CHECKING:
    from pathlib import Path

[BEST] = RECOMMENDED["two"]
TITLE = arms_of("two")[BEST].title
PLAN = Plan(test_texts=6)
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


def write_run(folder: Path, setting: str, arm: str, lr: float, seed: int, loss: float) -> None:
    start = {"kind": "start", "step": 0, "setting": setting, "arm": arm, "lr": lr, "seed": seed, "machine": MACHINE}
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


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("found")
    bench = Bench(folder, Plan(batch_size=5))
    bench.write("plan.json", asdict(PLAN))
    write_texts({"test": [Text(number // 2, {"text": "x" * 10}) for number in range(6)]}, folder / "texts.json")
    for (setting, arm), losses in LOSSES.items():
        for seed, loss in enumerate(losses):
            write_run(folder / "runs", setting, arm, 0.001, seed, loss)
        if arm != "kq":  # whose rate is not tuned
            for lr in (0.0005, 0.002):
                write_run(folder / "runs", setting, arm, lr, 0, losses[0])
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


def test_all_pictures_are_drawn_and_old_ones_go(found: Any, tmp_path: Path) -> None:
    (tmp_path / "evidence_search_one.png").write_bytes(b"of before")
    drawn = draw_all(found, tmp_path)
    assert {f"evidence_{name}.png" for name in ("gains", "texts", "curves", "search_two")} == set(drawn)
    assert {file.name for file in tmp_path.iterdir()} == set(drawn)
