"""What the runs have found: means, paired differences and intervals, of the runs that there are."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict
from itertools import product
from typing import TYPE_CHECKING, Any, Final

from benchmarks.evidence.ablation import ablation
from benchmarks.evidence.arms import ORDER, RECOMMENDED
from benchmarks.evidence.folder import made_on, read_beside, read_folder
from benchmarks.evidence.journal import dev_scores, journals
from benchmarks.evidence.plan import SETTINGS, vocabularies
from benchmarks.evidence.search import ranking, searched, title_of
from benchmarks.evidence.times import FILE, costs
from benchmarks.evidence.written import writing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.evidence.bench import Bench
    from benchmarks.evidence.folder import Folder
    from benchmarks.evidence.journal import Journal
    from benchmarks.evidence.plan import Plan, SettingName
    from benchmarks.evidence.queue import Order

RIVALS: Final = {
    "one": ("ce", "teacher-text", "vanilla-kd", "vanilla-T-2", "dskd", "dskd-v2", "ce-longer", "vanilla-longer"),
    "two": (
        *("ce", "teacher-text", "uld", "uld-hybrid", "hybrid-T-4", "min-edit", "min_edit-T-4", "dskd-cma"),
        *("ce-same-time", "ce-longer"),
    ),
}
"""What others offer, by vocabularies: as published, at the temperature that a search has found, and for longer."""

OF_CURVES: Final = ("dev", "metrics")
"""What is said of an arm's way to where it ends: of the first folder alone."""


def results(bench: Bench, order: Order = ORDER, beside: Sequence[Bench] = ()) -> dict[str, Any]:
    """Return all that the runs have found, of what is in the folder. Models are not needed.

    Args:
        bench: the folder; its ``plan.json`` is the plan.
        order: which arms there are to be.
        beside: folders of the same experiment, made elsewhere. Their students are others, so that each difference is
            within a folder. ``others`` has a row for each of them.

    Raises:
        SystemExit: there is nothing to report, or the texts are not those of the runs.
    """
    folder, searches = read_folder(bench), journals(bench.folder / "search")
    if not folder.found and not searches and bench.read("plan.json") is None:
        raise SystemExit(
            f"{bench.folder}: expected what runs write, runs/*.jsonl, search/*.jsonl, plan.json, and found none of it. "
            "Unpack the file of --pack there, or give another --folder."
        )
    texts = folder.texts
    others = [read_beside(other, bench) for other in beside]
    names = _apart([each.machine for each in (folder, *others)])
    return {
        "plan": asdict(folder.plan),
        "machine": names[0],
        "made on": folder.made_on,
        "searched on": made_on(searches),
        "baselines": bench.read("baselines.json") or {},
        "costs": costs(bench.read(FILE)),
        "written": next((took for each in (bench, *beside) if (took := writing(each.folder))), None),
        "intervals": texts is not None,
        "settings": {setting: _setting(folder, setting, order) for setting in SETTINGS},
        "others": [
            {
                "machine": name,
                "made on": other.made_on,
                "searched on": made_on(journals(its.folder / "search")),
                "search": _searched_beside(other, its),
                "baselines": its.read("baselines.json") or {},
                "settings": _reduced(other, order),
            }
            for name, other, its in zip(names[1:], others, beside, strict=True)
        ],
        "ablation": ablation(dict(zip(names, (folder, *others), strict=True))),
        "search": [_numbers(row) for row in ranking(dev_scores(searches), folder.plan)],
        "meaning": bench.read("meaning.json") or {},
    }


def _searched_beside(folder: Folder, bench: Bench) -> list[dict[str, Any]]:
    """Return what the search has found in another folder, and the arms that are compared there; nothing without one."""
    scores = dev_scores(journals(bench.folder / "search"))
    if not scores:
        return []
    first = folder.plan.seeds[0]
    compared = {run: score for run, score in folder.finished.items() if run.seed == first}
    return [_numbers(row) for row in ranking({**compared, **scores}, folder.plan)]


def _apart(names: Sequence[str]) -> list[str]:
    """Return names of which no two are alike."""
    return [
        name if names.count(name) == 1 else f"{name}, folder {names[:place].count(name) + 1}"
        for place, name in enumerate(names)
    ]


def _setting(folder: Folder, setting: SettingName, order: Order) -> dict[str, Any]:
    names = [arm for name, arms in order if name == setting for arm in arms]
    plan, described = folder.plan, {}
    for arm in dict.fromkeys((*names, *folder.arms(setting))):
        tried = folder.rates(setting, arm)
        if not tried:
            continue
        described[arm] = _arm(title_of(setting, arm), tried, *folder.at_best_rate(setting, arm), plan)
        described[arm]["tuned"] = folder.tuned(setting, arm)
        described[arm]["recommended"] = arm in RECOMMENDED[vocabularies(setting)]
    for arm, description in described.items():
        rivals = RIVALS[vocabularies(setting)] if description["recommended"] else ("ce",)
        against = {rival: folder.minus(setting, arm, rival) for rival in rivals if rival != arm}
        description["minus"] = {rival: minus for rival, minus in against.items() if minus is not None}
    seen = plan.length(setting) * plan.batch_size
    return {
        "vocabularies": vocabularies(setting),
        "texts": min(plan.texts[setting], seen),
        "times over": max(1.0, seen / plan.texts[setting]),
        "arms": described,
        "not begun": [name for name in names if name not in described],
    }


def _reduced(folder: Folder, order: Order) -> dict[str, Any]:
    """Return the settings that have runs, without what there is of the way to the end of each run."""
    found = {setting: _setting(folder, setting, order) for setting in SETTINGS if folder.arms(setting)}
    for of in found.values():
        # What is to be run there nobody has said.
        del of["not begun"]
        for description, name in product(of["arms"].values(), OF_CURVES):
            del description[name]
    return dict(found)


def _arm(
    title: str, tried: Mapping[float, float], rate: float, own: Mapping[int, Journal], plan: Plan
) -> dict[str, Any]:
    ends = {seed: journal.end for seed, journal in own.items() if journal.end is not None}
    well = {seed: end for seed, end in ends.items() if math.isfinite(end["nats_per_byte"])}
    return {
        "title": title,
        "lr": rate,
        "rates": {f"{lr:g}": _number(score) for lr, score in sorted(tried.items())},
        "seeds missing": [seed for seed in plan.seeds if seed not in ends],
        "given up": sorted(ends.keys() - well),
        "test": {str(seed): end["nats_per_byte"] for seed, end in well.items()},
        "mean": statistics.fmean(end["nats_per_byte"] for end in well.values()) if well else None,
        "accuracy": statistics.fmean(end["accuracy"] for end in well.values()) if well else None,
        "steps": next(iter(ends.values()))["step"],
        "dev": {
            str(seed): [
                {name: row[name] for name in ("step", "nats_per_byte", "accuracy")}
                for row in own[seed].rows
                if row["kind"] == "dev"
            ]
            for seed in well
        },
        "metrics": {str(seed): _last_metrics(own[seed]) for seed in well},
    }


def _last_metrics(journal: Journal) -> dict[str, float]:
    """Return the means of all terms and metrics over the last tenth of the steps."""
    steps = [row for row in journal.rows if row["kind"] == "step"]
    last = steps[-max(1, len(steps) // 10) :]
    names = [name for name in last[-1] if name not in ("kind", "step", "seconds")]
    return {name: statistics.fmean(row[name] for row in last if name in row) for name in names}


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the search as JSON can have it."""
    rates = {rate: _number(score) for rate, score in row["rates"].items()}
    arms = searched(row["setting"])
    name = arms[row["arm"]].title if row["arm"] in arms else row["arm"]
    return {**row, "title": name, "dev": _number(row["dev"]), "minus ce": _number(row["minus ce"]), "rates": rates}


def _number(value: float) -> float | None:
    """Return a number, or None for a run whose loss was none any more."""
    return value if math.isfinite(value) else None
