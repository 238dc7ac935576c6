"""What the runs have found: means, paired differences and intervals, of the runs that there are."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.evidence.arms import ORDER, arms_of
from benchmarks.evidence.journal import dev_scores, journals
from benchmarks.evidence.plan import SETTINGS
from benchmarks.evidence.queue import best_rate, next_rates, rates_tried

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.evidence.bench import Bench
    from benchmarks.evidence.data import Text
    from benchmarks.evidence.journal import Journal
    from benchmarks.evidence.plan import Plan, Run, SettingName
    from benchmarks.evidence.queue import Order

DRAWS: Final = 4000
"""Of the bootstrap."""

REFERENCES: Final = ("ce", "vanilla-kd")
"""Arms that others are compared with."""


def results(bench: Bench, order: Order = ORDER) -> dict[str, Any]:
    """Return all that the runs have found.

    Args:
        bench: the folder.
        order: which arms there are to be.
    """
    found = journals(bench.folder / "runs")
    finished = dev_scores(found)
    first = next(iter(found.values())).rows[0] if found else {}
    return {
        "machine": first.get("machine"),
        "threads": first.get("threads"),
        "versions": first.get("versions"),
        "plan": first.get("plan"),
        "runs": len(finished),
        "training hours": sum(journal.end["seconds"] for journal in found.values() if journal.end) / 3600,
        "baselines": bench.read("baselines.json") or {},
        "settings": {setting: _setting(bench, setting, order, found, finished) for setting in SETTINGS},
    }


def _setting(
    bench: Bench, setting: SettingName, order: Order, found: Mapping[Run, Journal], finished: Mapping[Run, float]
) -> dict[str, Any]:
    plan = bench.plan
    names = [arm for name, arms in order if name == setting for arm in arms]
    described, texts_of_arms = {}, {}
    for arm in (name for name in arms_of(setting) if name in names):
        tried = rates_tried(finished, setting, arm, plan)
        if not tried:
            continue
        rate = best_rate(finished, setting, arm, plan)
        runs = [run for run in finished if (run.setting, run.arm, run.lr) == (setting, arm, rate)]
        own = {run.seed: found[run] for run in sorted(runs, key=lambda run: run.seed)}
        described[arm] = _arm(arms_of(setting)[arm].title, rate, tried, own, plan)
        described[arm]["tuned"] = not next_rates(tried, plan.first_lr[setting], plan.farthest)
        texts_of_arms[arm] = {seed: journal.end["nats"] for seed, journal in own.items() if journal.end}
    for arm, description in described.items():
        description["minus"] = {
            reference: paired(texts_of_arms[arm], texts_of_arms[reference], bench.texts["test"])
            for reference in REFERENCES
            if reference in described and reference != arm and texts_of_arms[arm].keys() & texts_of_arms[reference]
        }
    return {"arms": described, "not begun": [name for name in names if name not in described]}


def _arm(
    title: str, rate: float, tried: Mapping[float, float], own: Mapping[int, Journal], plan: Plan
) -> dict[str, Any]:
    ends = {seed: journal.end for seed, journal in own.items() if journal.end}
    return {
        "title": title,
        "lr": rate,
        "rates": {f"{lr:g}": score for lr, score in sorted(tried.items())},
        "seeds missing": [seed for seed in plan.seeds if seed not in ends],
        "test": {str(seed): end["nats_per_byte"] for seed, end in ends.items()},
        "mean": statistics.fmean(end["nats_per_byte"] for end in ends.values()),
        "accuracy": statistics.fmean(end["accuracy"] for end in ends.values()),
        "seconds a step": statistics.median(
            row["seconds"] for journal in own.values() for row in journal.rows if row["kind"] == "step"
        ),
        "seconds": statistics.fmean(end["seconds"] for end in ends.values()),
        "steps": next(iter(ends.values()))["step"],
        "dev": {
            str(seed): [
                {name: row[name] for name in ("step", "seconds", "nats_per_byte", "accuracy")}
                for row in journal.rows
                if row["kind"] == "dev"
            ]
            for seed, journal in own.items()
        },
        "metrics": {str(seed): _last_metrics(journal) for seed, journal in own.items()},
    }


def _last_metrics(journal: Journal) -> dict[str, float]:
    """Return the means of all terms and metrics over the last tenth of the steps."""
    steps = [row for row in journal.rows if row["kind"] == "step"]
    last = steps[-max(1, len(steps) // 10) :]
    names = [name for name in last[-1] if name not in ("kind", "step", "seconds")]
    return {name: statistics.fmean(row[name] for row in last if name in row) for name in names}


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
    generator = np.random.default_rng(0)
    drawn_seeds = generator.integers(0, len(seeds), (DRAWS, len(seeds)))
    drawn = generator.integers(0, len(documents), (DRAWS, len(documents)))
    # How often each document was drawn, for all its texts at once.
    times = np.stack([np.bincount(row, minlength=len(documents)) for row in drawn])
    of_seeds = found[drawn_seeds].mean(1)
    means = (of_seeds * times).sum(1) / (times @ sizes)
    return {
        "mean": float(each.mean()),
        "seeds": {str(seed): float(value) for seed, value in zip(seeds, each, strict=True)},
        "from": float(each.min()),
        "to": float(each.max()),
        "interval": [float(edge) for edge in np.quantile(means, (0.025, 0.975))],
    }
