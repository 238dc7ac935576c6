"""The runs of one folder as a report needs them: what is finished, at the best rates, and differences of two arms."""

from __future__ import annotations

import json
import math
import re
import statistics
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.evidence.journal import dev_scores, journals
from benchmarks.evidence.queue import best_rate, next_rates, rates_tried

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.evidence.bench import Bench
    from benchmarks.evidence.data import Text
    from benchmarks.evidence.journal import Journal, Row
    from benchmarks.evidence.plan import Plan, Run, SettingName

DRAWS: Final = 4000
"""Of the bootstrap."""

WAY_TO_RATES: Final = frozenset({"first_lr", "farthest"})
"""Numbers of a plan that say which rates are tried, not what a run is: folders may differ in them."""


@dataclass(frozen=True)
class Folder:
    """What the runs of one folder have reached. Students of two folders may differ, so that only those of one compare.

    Args:
        plan: of the folder.
        found: the rows of its runs.
        texts: those that arms are compared by; None: they are not at hand, so that there are no intervals.
    """

    plan: Plan
    found: dict[Run, Journal]
    texts: Sequence[Text] | None

    @cached_property
    def finished(self) -> dict[Run, float]:
        """Nats per byte of the dev texts by the runs that are finished."""
        return dev_scores(self.found)

    @cached_property
    def made_on(self) -> list[dict[str, Any]]:
        """By machine how many runs are finished, how long they took, summed up, and with which versions."""
        return made_on(self.found)

    @property
    def machine(self) -> str:
        """What the page calls where the runs were made."""
        machines = sorted({journal.rows[0].get("machine", "an unknown machine") for journal in self.found.values()})
        names = [re.sub(r"^(?=\d+ cores)", "a CPU of ", machine.partition(", ")[0]) for machine in machines]
        return " and ".join(dict.fromkeys(names)) or "an unknown machine"

    def arms(self, setting: SettingName) -> list[str]:
        """Return the arms that have begun.

        Args:
            setting: the setting.
        """
        return list(dict.fromkeys(run.arm for run in self.finished if run.setting == setting))

    def rates(self, setting: SettingName, arm: str) -> dict[float, float]:
        """Return nats per byte of the dev texts by the rates that were tried for an arm.

        Args:
            setting: the setting.
            arm: the arm.
        """
        return rates_tried(self.finished, setting, arm, self.plan)

    def tuned(self, setting: SettingName, arm: str) -> bool:
        """Return whether the best rate of an arm has worse neighbours on both sides.

        Args:
            setting: the setting.
            arm: the arm.
        """
        return not next_rates(self.rates(setting, arm), self.plan.first_lr[setting], self.plan.farthest)

    def at_best_rate(self, setting: SettingName, arm: str) -> tuple[float, dict[int, Journal]]:
        """Return an arm's best rate, and by seed the rows of its runs with it.

        Args:
            setting: the setting.
            arm: the arm; some rate was tried.
        """
        rate = best_rate(self.finished, setting, arm, self.plan)
        runs = [run for run in self.finished if (run.setting, run.arm, run.lr) == (setting, arm, rate)]
        return rate, {run.seed: self.found[run] for run in sorted(runs, key=lambda run: run.seed)}

    def ends(self, setting: SettingName, arm: str) -> dict[int, Row]:
        """Return by seed the last row of an arm's runs at its best rate, of those that were not given up.

        Args:
            setting: the setting.
            arm: the arm.
        """
        own = self.at_best_rate(setting, arm)[1] if self.rates(setting, arm) else {}
        return {seed: end for seed, journal in own.items() if (end := went_well(journal))}

    def minus(self, setting: SettingName, ours: str, theirs: str) -> dict[str, Any] | None:
        """Return the difference of two arms, as `paired` has it; None: they have no seed in common.

        Args:
            setting: the setting.
            ours: the arm.
            theirs: what is subtracted.
        """
        own, other = self.ends(setting, ours), self.ends(setting, theirs)
        if not own.keys() & other.keys():
            return None
        if self.texts is not None:
            nats = ({seed: end["nats"] for seed, end in ends.items()} for ends in (own, other))
            return paired(*nats, self.texts)
        return _summary(
            {seed: own[seed]["nats_per_byte"] - other[seed]["nats_per_byte"] for seed in own if seed in other}
        )


def read_folder(bench: Bench) -> Folder:
    """Return what the runs of a folder have reached.

    Args:
        bench: the folder; its ``plan.json`` is the plan.

    Raises:
        SystemExit: the texts are not those of the runs.
    """
    found = journals(bench.folder / "runs")
    # Intervals are over documents: which text is of which document only this file says.
    texts = bench.texts["test"] if (bench.folder / "texts.json").is_file() else None
    if texts is not None:
        _check_texts(bench, found, texts)
    return Folder(_plan(bench), found, texts)


def read_beside(bench: Bench, first: Bench) -> Folder:
    """Return what the runs of another folder have reached, of the same experiment.

    Args:
        bench: the other folder.
        first: the folder that it is to stand beside.

    Raises:
        SystemExit: there are no runs, or they are of other texts or another plan.
    """
    if not any((bench.folder / "runs").glob("*.jsonl")):
        raise SystemExit(f"{bench.folder}: expected runs/*.jsonl, to stand beside {first.folder}, and found none.")
    texts, others = first.read("texts.json"), bench.read("texts.json")
    if texts is None or texts != others:
        lacking = [str(each.folder / "texts.json") for each in (first, bench) if each.read("texts.json") is None]
        reason = f"{' and '.join(lacking)} is not there" if lacking else "they differ"
        raise SystemExit(
            f"{bench.folder} can't stand beside {first.folder}: expected the same texts.json in both; {reason}. Put "
            "the file there that the runs were made with; runs of other texts have a report of their own."
        )
    folder, plan = read_folder(bench), _plan(first)
    own, other = (json.loads(json.dumps(asdict(each))) for each in (plan, folder.plan))
    differing = [
        f"{name} is {other[name]!r}, not {own[name]!r}"
        for name in own
        if own[name] != other[name] and name not in WAY_TO_RATES
    ]
    if differing:
        raise SystemExit(f"{bench.folder} can't stand beside {first.folder}: its plan.json is another: {differing[0]}.")
    return folder


def _check_texts(bench: Bench, found: Mapping[Run, Journal], texts: Sequence[Text]) -> None:
    """Refuse texts that runs were not measured on: intervals would be of other documents."""
    size = sum(text.scored_bytes for text in texts)
    for run, journal in found.items():
        end = went_well(journal)
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


def made_on(found: Mapping[Run, Journal]) -> list[dict[str, Any]]:
    """Return by machine how many runs are finished, how long they took, summed up, and with which versions.

    Args:
        found: the rows of runs.
    """
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


def went_well(journal: Journal) -> Row | None:
    """Return the last row of a run that is finished, and not given up.

    Args:
        journal: of the run.
    """
    end = journal.end
    return end if end is not None and math.isfinite(end["nats_per_byte"]) else None


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
