"""The built-in schedules, and the field type of a weight: a number, or any schedule that is installed."""

from __future__ import annotations

import math
import operator
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, field_validator
from pydantic_core import core_schema

from dskd_components.components.fields import ComponentField
from dskd_components.components.schedule import Schedule, final_step_of, range_of
from dskd_components.errors import InputError, UnknownComponentError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue


Value = Annotated[float, Field(ge=0)]
"""A weight: finite, and not negative."""
Step = Annotated[int, Field(ge=0)]
"""How many optimizer steps have been taken; the first one is made at 0."""


def between(start: float, end: float, fraction: float) -> float:
    """Return the number at a fraction of the way; rounding never takes it out of the range of the two.

    Args:
        start: at fraction 0.
        end: at fraction 1.
        fraction: from 0 to 1.

    Examples:
        >>> between(1.0, 3.0, 0.25)
        1.5
    """
    mixed = (1 - fraction) * start + fraction * end
    return min(max(mixed, min(start, end)), max(start, end))


class Ramp(Schedule):
    """From ``start`` to ``end``; before and after, it stays where it is."""

    start: Value
    """The number before the ramp and at its first step."""
    end: Value
    """The number from the ramp's last step on."""
    steps: Annotated[int, Field(gt=0)]
    """How many optimizer steps it takes."""
    begin: Step = 0
    """The step at which it begins."""

    def at(self, step: int) -> float:
        """Return the number at a step."""
        done = min(max(step - self.begin, 0), self.steps)
        return between(self.start, self.end, self._eased(done / self.steps))

    @property
    def turning_points(self) -> Iterable[float]:
        """Both ends."""
        return self.start, self.end

    @property
    def final_step(self) -> int:
        """The ramp's last step."""
        return self.begin + self.steps

    @abstractmethod
    def _eased(self, fraction: float) -> float:
        """Return which part of the way is done after a fraction of the steps: 0 at 0, 1 at 1."""


class LinearSchedule(Ramp):
    """The same amount at every step.

    Examples:
        >>> warm_up = LinearSchedule(start=0, end=1, steps=100)
        >>> [warm_up.at(step) for step in (0, 25, 100, 1000)]
        [0.0, 0.25, 1.0, 1.0]
        >>> LinearSchedule(start=1, end=0, steps=10, begin=50).at(55)
        0.5
    """

    name: Literal["linear"] = "linear"

    def _eased(self, fraction: float) -> float:
        return fraction


class CosineSchedule(Ramp):
    """Slow at both ends, fastest half-way.

    Examples:
        >>> decay = CosineSchedule(start=1, end=0, steps=100)
        >>> [round(decay.at(step), 3) for step in (0, 25, 50, 100)]
        [1.0, 0.854, 0.5, 0.0]
    """

    name: Literal["cosine"] = "cosine"

    def _eased(self, fraction: float) -> float:
        # The square of the half angle's sine: exactly 0 and 1 at the ends, as half of (1 - cos) is.
        return math.sin(fraction * math.pi / 2) ** 2


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

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return warm-up, plateau and decay, by lines and by stairs."""
        points = ((2, 0.5), (4, 1.0), (6, 1.0), (9, 0.25))
        return cls(points=points), cls(points=points, interpolation="stairs")

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

    @property
    def final_step(self) -> int:
        """The step of the last point."""
        return self.points[-1][0]


BUILT_IN = (LinearSchedule, CosineSchedule, PiecewiseSchedule)
"""What `dskd_components.builtin` offers to the registry, in the order of its lists."""

ANY_SCHEDULE: Final = ComponentField("schedule")


@dataclass(frozen=True)
class WeightField:
    """Tells pydantic how to read, write and describe a weight.

    Args:
        at_most: what it must not exceed at any step; None: anything.
    """

    at_most: float | None = None

    def __get_pydantic_core_schema__(self, source: type[Any], handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Read mappings and names as schedules, everything else as a number."""
        return core_schema.no_info_wrap_validator_function(
            self._read,
            self._number,
            serialization=core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True),
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the number and every schedule; that a schedule stays within bounds is left to the reading."""
        return {"anyOf": [handler(self._number), *ANY_SCHEDULE.choices(handler)]}

    @property
    def _number(self) -> core_schema.CoreSchema:
        return core_schema.float_schema(ge=0, le=self.at_most, allow_inf_nan=False)

    def _read(self, value: object, number: core_schema.ValidatorFunctionWrapHandler) -> float | Schedule:
        schedule = self._schedule(value, number)
        if not isinstance(schedule, Schedule):
            return schedule
        final_step_of(schedule)
        reached = highest(schedule)
        if self.at_most is not None and reached > self.at_most:
            raise ValueError(f"expected at most {self.at_most:g} at every step, but the schedule reaches {reached:g}")
        return schedule

    def _schedule(self, value: object, number: core_schema.ValidatorFunctionWrapHandler) -> float | Schedule:
        if isinstance(value, Mapping | Schedule) or (isinstance(value, str) and not _spells_a_number(value)):
            try:
                found = ANY_SCHEDULE.read(value)
            except UnknownComponentError as error:
                raise ValueError(f"expected a number or a schedule: {error}") from error
            assert isinstance(found, Schedule), "the registry has schedules under this kind"
            return found
        return float(number(value))


def _spells_a_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


Weight = Annotated[float | Schedule, WeightField()]
"""A non-negative number, or a schedule of such numbers."""
Share = Annotated[float | Schedule, WeightField(at_most=1)]
"""A number from 0 to 1, or a schedule of such numbers."""


def highest(weight: float | Schedule) -> float:
    """Return the greatest number that a weight is at any step.

    Args:
        weight: the weight.

    Examples:
        >>> highest(LinearSchedule(start=2, end=1, steps=10))
        2.0
    """
    return range_of(weight)[1] if isinstance(weight, Schedule) else weight


def scheduled_among(weights: Mapping[str, float | Schedule]) -> dict[str, Schedule]:
    """Return those of some weights that follow a schedule.

    Args:
        weights: by where they stand in the spec.

    Examples:
        >>> list(scheduled_among({"kd_rate": LinearSchedule(start=0, end=1, steps=10), "weight": 1.0}))
        ['kd_rate']
    """
    return {name: weight for name, weight in weights.items() if isinstance(weight, Schedule)}


def last_change(schedules: Mapping[str, Schedule]) -> int:
    """Return the step from which on none of some schedules changes; 0 without any.

    Args:
        schedules: by where they stand in the spec.

    Examples:
        >>> last_change({"kd_rate": LinearSchedule(start=0, end=1, steps=10, begin=5)})
        15
    """
    return max((final_step_of(schedule) for schedule in schedules.values()), default=0)


def at_step(weight: float | Schedule, step: int | None, field: str) -> float:
    """Return what a weight is at a step.

    Args:
        weight: the weight.
        step: how many optimizer steps have been taken; None if the caller does not say.
        field: where the weight stands in the spec, for the message.

    Raises:
        InputError: it depends on the step, which is not given.
        PluginError: the schedule gives something else than it promises.

    Examples:
        >>> at_step(0.5, None, "kd_rate")
        0.5
        >>> at_step(LinearSchedule(start=0, end=1, steps=10), 5, "kd_rate")
        0.5
    """
    if not isinstance(weight, Schedule):
        return weight
    if step is None:
        raise InputError(
            f"step is missing: the spec's {field} follows the schedule {weight.name!r}. Pass the number of optimizer "
            "steps taken so far, 0 at the first: loss_fn.run(..., step=step) or loss_fn(..., step=step)."
        )
    return weight.number_at(step)


def checked_step(step: object) -> int | None:
    """Return a step as a plain integer; None if there is none.

    Args:
        step: an integer of any type, or None.

    Raises:
        InputError: it is something else, or negative.

    Examples:
        >>> checked_step(3)
        3
    """
    if step is None:
        return None
    try:
        number = -1 if isinstance(step, bool) else operator.index(step)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if number < 0:
        raise InputError(
            f"step: expected the number of optimizer steps taken so far, a non-negative integer, got {step!r}."
        )
    return number


def _dump(weight: float | Schedule, info: core_schema.SerializationInfo) -> float | dict[str, Any]:
    return weight.model_dump(mode=info.mode) if isinstance(weight, Schedule) else weight
