"""`Schedule`: a number for each optimizer step, where a spec would otherwise have the same number throughout."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

from dskd_components.components.component import Component
from dskd_components.errors import PluginError, class_and_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Answer = TypeVar("Answer")

ROUNDING: Final = 1e-9
"""By what part of the range's ends a number may lie beyond them: it is computed in float64."""


class Schedule(Component, ABC):
    """Options of a schedule, and the number that they give at a step. It has no state: the loop counts the steps.

    Examples:
        >>> from dskd_components.spec import LinearSchedule
        >>> warm_up = LinearSchedule(start=0, end=1, steps=100)
        >>> warm_up.number_at(25), list(warm_up.turning_points), warm_up.final_step
        (0.25, [0.0, 1.0], 100)
    """

    kind: ClassVar[str] = "schedule"

    @abstractmethod
    def at(self, step: int) -> float:
        """Return the number at a step: finite, not negative, and the same whenever it is asked for.

        Args:
            step: how many optimizer steps have been taken, 0 at the first.
        """

    @property
    @abstractmethod
    def turning_points(self) -> Iterable[float]:
        """The numbers between which the schedule moves, one at least; it never leaves their range."""

    @property
    @abstractmethod
    def final_step(self) -> int:
        """The step from which on the number stays as it is; evaluations are made by the weights of this step."""

    def number_at(self, step: int) -> float:
        """Return the number at a step, once it is known to be one that the schedule promises.

        Args:
            step: as in `at`.

        Raises:
            PluginError: it is not; the message has the schedule, the step and the number.
        """
        number = _asked(self, f"at({step})", lambda: self.at(step))
        lowest, highest = range_of(self)
        if not is_weight(number) or not lowest - ROUNDING * lowest <= number <= highest + ROUNDING * highest:
            raise PluginError(
                f"{described(self)} gives {number!r} at step {step}; expected a finite number from {lowest:g} to "
                f"{highest:g}, the range of its turning_points."
            )
        return float(number)


def range_of(schedule: Schedule) -> tuple[float, float]:
    """Return the lowest and the highest number that a schedule says it has.

    Args:
        schedule: the schedule.

    Raises:
        PluginError: its turning points are no weights, or there are none.
    """
    points = _asked(schedule, "turning_points", lambda: list(schedule.turning_points))
    wrong = [point for point in points if not is_weight(point)]
    if wrong or not points:
        raise PluginError(
            f"{described(schedule)}: expected turning_points to be finite numbers, not negative, one at least, got "
            f"{wrong[0] if wrong else points!r}."
        )
    return float(min(points)), float(max(points))


def final_step_of(schedule: Schedule) -> int:
    """Return the step from which on a schedule says it stays as it is.

    Args:
        schedule: the schedule.

    Raises:
        PluginError: it is no step.
    """
    step = _asked(schedule, "final_step", lambda: schedule.final_step)
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise PluginError(
            f"{described(schedule)}: expected final_step to be an integer, 0 or more, got {step!r}; a schedule that "
            "never stops changing needs an end."
        )
    return step


def is_weight(number: object) -> bool:
    """Return whether something is a number that a term can be weighted with: plain, finite and not negative.

    Examples:
        >>> is_weight(0), is_weight(0.5), is_weight(float("nan")), is_weight(-1.0), is_weight("1")
        (True, True, False, False, False)
    """
    return isinstance(number, float | int) and not isinstance(number, bool) and math.isfinite(number) and number >= 0


def _asked(schedule: Schedule, what: str, ask: Callable[[], Answer]) -> Answer:
    """Ask a plugin's own code for something; whatever it raises has the schedule's name on it."""
    try:
        return ask()
    except Exception as error:
        raise PluginError(f"{described(schedule)}: {what} failed: {class_and_message(error)}") from error


def described(schedule: Schedule) -> str:
    """Return what messages call a schedule."""
    return f"the schedule {schedule.name!r} ({type(schedule).__module__}.{type(schedule).__qualname__})"
