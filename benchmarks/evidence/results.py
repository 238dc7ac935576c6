"""What the runs have found: means, paired differences and intervals, of the runs that there are."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import asdict, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.evidence.arms import ORDER, RECOMMENDED, arms_of
from benchmarks.evidence.journal import dev_scores, journals
from benchmarks.evidence.plan import SETTINGS, vocabularies
from benchmarks.evidence.queue import best_rate, next_rates, rates_tried
from benchmarks.evidence.search import ranking, searched
from benchmarks.evidence.times import FILE, costs
from benchmarks.evidence.written import writing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.evidence.bench import Bench
    from benchmarks.evidence.data import Text
    from benchmarks.evidence.journal import Journal, Row
    from benchmarks.evidence.plan import Plan, Run, SettingName
    from benchmarks.evidence.queue import Order

DRAWS: Final = 4000
"""Of the bootstrap."""

RIVALS: Final = {
    "one": ("ce", "ce-longer", "teacher-text", "vanilla-kd", "dskd", "dskd-v2"),
    "two": ("ce", "ce-longer", "teacher-text", "uld", "uld-hybrid", "min-edit", "dskd-cma"),
}
"""What others offer, by vocabularies."""


def results(bench: Bench, order: Order = ORDER) -> dict[str, Any]:
    """Return all that the runs have found, of what is in the folder. Models are not needed.

    Args:
        bench: the folder; its ``plan.json`` is the plan.
        order: which arms there are to be.

    Raises:
        SystemExit: there is nothing to report, or the texts are not those of the runs.
    """
    found, searches = journals(bench.folder / "runs"), journals(bench.folder / "search")
    plan = _plan(bench)
    if not found and not searches and bench.read("plan.json") is None:
        raise SystemExit(
            f"{bench.folder}: expected what runs write, runs/*.jsonl, search/*.jsonl, plan.json, and found none of it. "
            "Unpack the file of --pack there, or give another --folder."
        )
    finished, scores = dev_scores(found), dev_scores(searches)
    # Intervals are over documents: which text is of which document only this file says.
    texts = bench.texts["test"] if (bench.folder / "texts.json").is_file() else None
    if texts is not None:
        _check_texts(bench, found, texts)
    return {
        "plan": asdict(plan),
        "made on": _made_on(found),
        "searched on": _made_on(searches),
        "baselines": bench.read("baselines.json") or {},
        "costs": costs(bench.read(FILE)),
        "written": writing(bench.folder),
        "intervals": texts is not None,
        "settings": {setting: _setting(plan, setting, order, found, finished, texts) for setting in SETTINGS},
        "search": [_numbers(row) for row in ranking(scores, plan)],
        "meaning": bench.read("meaning.json") or {},
    }


def _check_texts(bench: Bench, found: Mapping[Run, Journal], texts: Sequence[Text]) -> None:
    """Refuse texts that runs were not measured on: intervals would be of other documents."""
    size = sum(text.scored_bytes for text in texts)
    for run, journal in found.items():
        end = _went_well(journal)
        if end is not None and (
            len(end["nats"]) != len(texts) or abs(sum(end["nats"]) - size * end["nats_per_byte"]) > 1e-3 * size
        ):
            raise SystemExit(
                f"{bench.folder / 'texts.json'} has {len(texts)} texts for tests, of {size} bytes; {run.name} was "
                f"measured on {len(end['nats'])}, of {sum(end['nats']) / end['nats_per_byte']:.0f}. Put the file there "
                "that the runs were made with, or none: then there are no intervals."
            )


def _plan(bench: Bench) -> Plan:
    """Return the plan of the folder, or the one of today where it says nothing."""
    kept = bench.read("plan.json") or {}
    changed: dict[str, Any] = {}
    for name in {field.name for field in fields(bench.plan)} & kept.keys():
        own = getattr(bench.plan, name)
        # A plan of before has no number for settings of today.
        changed[name] = {**own, **kept[name]} if isinstance(own, dict) else kept[name]
    return replace(bench.plan, **changed)


def _made_on(found: Mapping[Run, Journal]) -> list[dict[str, Any]]:
    """Return by machine how many runs are finished, how long they took, summed up, and with which versions."""
    rows: dict[str, dict[str, Any]] = {}
    for journal in found.values():
        if journal.end is not None:
            start = journal.rows[0]
            row = rows.setdefault(
                start.get("machine", "an unknown machine"),
                {"runs": 0, "hours": 0.0, "threads": start.get("threads"), "versions": start.get("versions", {})},
            )
            row["runs"] += 1
            row["hours"] += journal.end["seconds"] / 3600
    return [{"machine": machine, **row} for machine, row in sorted(rows.items())]


def _setting(
    plan: Plan,
    setting: SettingName,
    order: Order,
    found: Mapping[Run, Journal],
    finished: Mapping[Run, float],
    texts: Sequence[Text] | None,
) -> dict[str, Any]:
    names = [arm for name, arms in order if name == setting for arm in arms]
    begun = Counter(run.arm for run in finished if run.setting == setting)
    described, well = {}, {}
    for arm in dict.fromkeys((*names, *begun)):
        tried = rates_tried(finished, setting, arm, plan)
        if not tried:
            continue
        rate = best_rate(finished, setting, arm, plan)
        runs = [run for run in finished if (run.setting, run.arm, run.lr) == (setting, arm, rate)]
        own = {run.seed: found[run] for run in sorted(runs, key=lambda run: run.seed)}
        described[arm] = _arm(_title(setting, arm), rate, tried, own, plan)
        described[arm]["tuned"] = not next_rates(tried, plan.first_lr[setting], plan.farthest)
        described[arm]["recommended"] = arm in RECOMMENDED[vocabularies(setting)]
        well[arm] = {seed: end for seed, journal in own.items() if (end := _went_well(journal))}
    for arm, description in described.items():
        rivals = RIVALS[vocabularies(setting)] if description["recommended"] else ("ce",)
        description["minus"] = {
            rival: _minus(well[arm], well[rival], texts)
            for rival in rivals
            if rival in described and rival != arm and well[arm].keys() & well[rival]
        }
    seen = plan.length(setting) * plan.batch_size
    return {
        "vocabularies": vocabularies(setting),
        "texts": min(plan.texts[setting], seen),
        "times over": max(1.0, seen / plan.texts[setting]),
        "arms": described,
        "not begun": [name for name in names if name not in described],
    }


def _title(setting: SettingName, arm: str) -> str:
    if arm in arms_of(setting):
        return arms_of(setting)[arm].title
    return f"`{searched(setting)[arm].title}`, of the search" if arm in searched(setting) else f"`{arm}`"


def _went_well(journal: Journal) -> Row | None:
    """Return the last row of a run that is finished, and not given up."""
    end = journal.end
    return end if end is not None and math.isfinite(end["nats_per_byte"]) else None


def _minus(ours: Mapping[int, Row], theirs: Mapping[int, Row], texts: Sequence[Text] | None) -> dict[str, Any]:
    """Return the difference of two arms; without the texts there is no interval."""
    if texts is not None:
        own, other = ({seed: end["nats"] for seed, end in ends.items()} for ends in (ours, theirs))
        return paired(own, other, texts)
    return _summary(
        {seed: ours[seed]["nats_per_byte"] - theirs[seed]["nats_per_byte"] for seed in ours if seed in theirs}
    )


def _arm(
    title: str, rate: float, tried: Mapping[float, float], own: Mapping[int, Journal], plan: Plan
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


def paired(
    ours: Mapping[int, Sequence[float]], theirs: Mapping[int, Sequence[float]], texts: Sequence[Text]
) -> dict[str, Any]:
    """Return the difference of two arms on the same texts, seed by seed.

    The interval is of a bootstrap over seeds and over documents: what another choice of either would have given.

    Args:
        ours: by seed, the loss of each text, in nats.
        theirs: likewise; seeds that both have are compared.
        texts: the texts.

    Returns:
        ``mean``, ``seeds``, ``from`` and ``to`` over the seeds, in nats a byte, and ``interval``, of 95 %.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    documents = sorted({text.document for text in texts})
    place = {document: number for number, document in enumerate(documents)}
    rows = np.array([place[text.document] for text in texts])
    sizes = np.bincount(rows, weights=[text.scored_bytes for text in texts], minlength=len(documents))
    found = np.stack(
        [np.bincount(rows, weights=np.subtract(ours[seed], theirs[seed]), minlength=len(documents)) for seed in seeds]
    )
    each = found.sum(1) / sizes.sum()
    drawn_seeds, times = _draws(len(seeds), len(documents))
    means = (found[drawn_seeds].mean(1) * times).sum(1) / (times @ sizes)
    return {
        **_summary(dict(zip(seeds, each.tolist(), strict=True))),
        "interval": [float(edge) for edge in np.quantile(means, (0.025, 0.975))],
    }


def _summary(each: Mapping[int, float]) -> dict[str, Any]:
    return {
        "mean": statistics.fmean(each.values()),
        "seeds": {str(seed): value for seed, value in sorted(each.items())},
        "from": min(each.values()),
        "to": max(each.values()),
        "interval": None,
    }


@lru_cache(maxsize=8)
def _draws(seeds: int, documents: int) -> tuple[Any, Any]:
    """Return which seeds each draw has, and how often each document, for all its texts at once."""
    generator = np.random.default_rng(0)
    drawn_seeds = generator.integers(0, seeds, (DRAWS, seeds))
    drawn = generator.integers(0, documents, (DRAWS, documents))
    return drawn_seeds, np.stack([np.bincount(row, minlength=documents) for row in drawn])
