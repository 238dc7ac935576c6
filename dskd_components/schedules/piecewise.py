"""Any number of corners: warm-up, plateau and decay, or stairs."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from dskd_components.schedules.schedule import Schedule, Step, Value, between

if TYPE_CHECKING:
    from collections.abc import Iterable


class PiecewiseSchedule(Schedule):
    """Through given points: the first number before them, the last one after them.

    Examples:
        >>> warm_up_and_decay = PiecewiseSchedule(points=((0, 0), (100, 1), (900, 1), (1000, 0.5)))
        >>> [warm_up_and_decay.at(step) for step in (50, 500, 950, 2000)]
        [0.5, 1.0, 0.75, 0.5]
        >>> PiecewiseSchedule(points=((0, 1), (100, 0)), interpolation="stairs").at(99)
        1.0
    """

    name: Literal["piecewise"] = "piecewise"
    points: Annotated[tuple[tuple[Step, Value], ...], Field(min_length=1)]
    """Steps, each greater than the one before it, and the number at each."""
    interpolation: Literal["linear", "stairs"] = "linear"
    """Between two points: a straight line, or the number of the earlier one."""

    @field_validator("points")
    @classmethod
    def _in_order(cls, points: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
        for (earlier, _), (later, _) in pairwise(points):
            if later <= earlier:
                raise ValueError(f"expected steps in increasing order, got {later} after {earlier}")
        return points

    def at(self, step: int) -> float:
        """Return the number at a step."""
        passed = bisect_right([first for first, _ in self.points], step)
        if passed == 0:
            return self.points[0][1]
        first, start = self.points[passed - 1]
        if passed == len(self.points) or self.interpolation == "stairs":
            return start
        last, end = self.points[passed]
        return between(start, end, (step - first) / (last - first))

    @property
    def turning_points(self) -> Iterable[float]:
        """The number at each point."""
        return [value for _, value in self.points]
