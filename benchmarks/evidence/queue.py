"""Which run comes next: an arm's learning rate is tuned with one seed, then the other seeds have the best one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.evidence.plan import Run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.evidence.plan import Plan, SettingName

    Order = Sequence[tuple[SettingName, Sequence[str]]]

FACTOR: Final = 2.0
"""Between neighbouring rates."""


def next_run(order: Order, finished: Mapping[Run, float], plan: Plan) -> Run | None:
    """Return the run to be done next.

    Args:
        order: the arms, a line of them after the other.
        finished: nats per byte of the dev texts by run.
        plan: has first rates and seeds.

    Returns:
        The run; None: all are done.
    """
    for setting, arms in order:
        for arm in arms:
            rate = next_rate(rates_tried(finished, setting, arm, plan), plan.first_lr[setting], plan.farthest)
            if rate is not None:
                return Run(setting, arm, rate, plan.seeds[0])
        for seed in plan.seeds[1:]:
            for arm in arms:
                run = Run(setting, arm, best_rate(finished, setting, arm, plan), seed)
                if run not in finished:
                    return run
    return None


def next_rate(tried: Mapping[float, float], first: float, farthest: int) -> float | None:
    """Return the rate to try next, None once the best one has worse neighbours on both sides.

    Args:
        tried: nats per byte by rate.
        first: the rate to begin with.
        farthest: how many factors a rate may be away from it.
    """
    if first not in tried:
        return first
    best = min(tried, key=tried.__getitem__)
    for rate in (best * FACTOR, best / FACTOR):
        if rate not in tried and first / FACTOR**farthest <= rate <= first * FACTOR**farthest:
            return rate
    return None


def rates_tried(finished: Mapping[Run, float], setting: SettingName, arm: str, plan: Plan) -> dict[float, float]:
    """Return nats per byte of the dev texts by the rates that were tried for an arm.

    Args:
        finished: as in `next_run`.
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
        finished: as in `next_run`.
        setting: the setting.
        arm: the arm; some rate was tried.
        plan: as in `rates_tried`.
    """
    tried = rates_tried(finished, setting, arm, plan)
    return min(tried, key=tried.__getitem__)


def remaining(order: Order, finished: Mapping[Run, float], plan: Plan, *, rates: float = 3.5) -> float:
    """Return about how many runs are left.

    Args:
        order: as in `next_run`.
        finished: as there.
        plan: as there.
        rates: how many rates an arm is tried with, on average.
    """
    left = 0.0
    for setting, arms in order:
        for arm in arms:
            tried = rates_tried(finished, setting, arm, plan)
            tuned = next_rate(tried, plan.first_lr[setting], plan.farthest) is None
            left += 0.0 if tuned else max(rates - len(tried), 1.0)
            best = best_rate(finished, setting, arm, plan) if tried else None
            done = {run.seed for run in finished if (run.setting, run.arm, run.lr) == (setting, arm, best)}
            left += len(set(plan.seeds[1:]) - done)
    return left
