"""Which runs come next: an arm's learning rate is tuned with one seed, then the other seeds have the best one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.evidence.plan import Run

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

    from benchmarks.evidence.plan import Plan, SettingName

    Order = Sequence[tuple[SettingName, Sequence[str]]]

FACTOR: Final = 2.0
"""Between neighbouring rates."""


def next_runs(
    order: Order, finished: Mapping[Run, float], plan: Plan, more_seeds: Container[tuple[SettingName, str]] = ()
) -> Iterator[Run]:
    """Yield the runs that can begin now, the most urgent first; some may be under way already.

    Args:
        order: the arms, a line of them after the other.
        finished: nats per byte of the dev texts by run.
        plan: has first rates and seeds.
        more_seeds: the arms, each with its setting, that have the plan's further seeds besides.

    Yields:
        Runs that are not finished. None: all are done.
    """
    for setting, arms in order:
        for arm in arms:
            tried = rates_tried(finished, setting, arm, plan)
            for rate in next_rates(tried, plan.first_lr[setting], plan.farthest):
                yield Run(setting, arm, rate, plan.seeds[0])
        yield from _of_seeds(setting, arms, plan.seeds[1:], finished, plan)
        chosen = [arm for arm in arms if (setting, arm) in more_seeds]
        yield from _of_seeds(setting, chosen, plan.more_seeds, finished, plan)


def _of_seeds(
    setting: SettingName, arms: Sequence[str], seeds: Sequence[int], finished: Mapping[Run, float], plan: Plan
) -> Iterator[Run]:
    """Yield the runs of arms that are tuned with some seeds."""
    for seed in seeds:
        for arm in arms:
            tried = rates_tried(finished, setting, arm, plan)
            if not next_rates(tried, plan.first_lr[setting], plan.farthest):
                run = Run(setting, arm, best_rate(finished, setting, arm, plan), seed)
                if run not in finished:
                    yield run


def next_rates(tried: Mapping[float, float], first: float, farthest: int) -> list[float]:
    """Return the rates to try next; none once the best one has worse neighbours on both sides.

    Args:
        tried: nats per byte by rate.
        first: the rate to begin with.
        farthest: how many factors a rate may be away from it.
    """
    best = min(tried, key=tried.__getitem__) if first in tried else first
    lowest, highest = first / FACTOR**farthest, first * FACTOR**farthest
    near = [rate for rate in (best * FACTOR, best / FACTOR) if lowest <= rate <= highest]
    return [rate for rate in (first, *near) if rate not in tried]


def rates_tried(finished: Mapping[Run, float], setting: SettingName, arm: str, plan: Plan) -> dict[float, float]:
    """Return nats per byte of the dev texts by the rates that were tried for an arm.

    Args:
        finished: as in `next_runs`.
        setting: the setting.
        arm: the arm.
        plan: has the seed by which rates are chosen.
    """
    return {
        run.lr: score
        for run, score in finished.items()
        if (run.setting, run.arm, run.seed) == (setting, arm, plan.seeds[0])
    }


def best_rate(finished: Mapping[Run, float], setting: SettingName, arm: str, plan: Plan) -> float:
    """Return the rate of an arm that is best on the dev texts.

    Args:
        finished: as in `next_runs`.
        setting: the setting.
        arm: the arm; some rate was tried.
        plan: as in `rates_tried`.
    """
    tried = rates_tried(finished, setting, arm, plan)
    return min(tried, key=tried.__getitem__)


def remaining(
    order: Order,
    finished: Mapping[Run, float],
    plan: Plan,
    more_seeds: Container[tuple[SettingName, str]] = (),
    *,
    rates: float = 3.5,
) -> float:
    """Return about how many runs are left.

    Args:
        order: as in `next_runs`.
        finished: as there.
        plan: as there.
        more_seeds: as there.
        rates: how many rates an arm is tried with, on average.
    """
    left = 0.0
    for setting, arms in order:
        for arm in arms:
            tried = rates_tried(finished, setting, arm, plan)
            tuned = not next_rates(tried, plan.first_lr[setting], plan.farthest)
            left += 0.0 if tuned else max(rates - len(tried), 1.0)
            best = best_rate(finished, setting, arm, plan) if tried else None
            done = {run.seed for run in finished if (run.setting, run.arm, run.lr) == (setting, arm, best)}
            seeds = {*plan.seeds[1:], *(plan.more_seeds if (setting, arm) in more_seeds else ())}
            left += len(seeds - done)
    return left
