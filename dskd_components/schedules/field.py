"""The field types of a spec that hold a weight: a number, or a schedule that gives one at each step."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic_core import core_schema

from dskd_components.components.component import did_you_mean
from dskd_components.errors import InputError
from dskd_components.schedules.cosine import CosineSchedule
from dskd_components.schedules.linear import LinearSchedule
from dskd_components.schedules.piecewise import PiecewiseSchedule
from dskd_components.schedules.schedule import Schedule

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue

SCHEDULES: Final[Mapping[str, type[Schedule]]] = {
    "linear": LinearSchedule,
    "cosine": CosineSchedule,
    "piecewise": PiecewiseSchedule,
}


@dataclass(frozen=True)
class WeightField:
    """Tells pydantic how to read, write and describe a weight.

    Args:
        at_most: what it must not exceed at any step; None: anything.
    """

    at_most: float | None = None

    def __get_pydantic_core_schema__(self, source: type[Any], handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Read mappings as schedules, everything else as a number."""
        return core_schema.no_info_wrap_validator_function(
            self._read,
            self._number,
            serialization=core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True),
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the number and every schedule; that a schedule stays within bounds is left to the reading."""
        schedules = (handler(schedule.__pydantic_core_schema__) for schedule in SCHEDULES.values())
        return {"anyOf": [handler(self._number), *schedules]}

    @property
    def _number(self) -> core_schema.CoreSchema:
        return core_schema.float_schema(ge=0, le=self.at_most, allow_inf_nan=False)

    def _read(self, value: object, number: core_schema.ValidatorFunctionWrapHandler) -> float | Schedule:
        if isinstance(value, Mapping):
            value = _schedule_class(value).model_validate(value)
        if not isinstance(value, Schedule):
            return float(number(value))
        reached = highest(value)
        if self.at_most is not None and reached > self.at_most:
            raise ValueError(f"expected at most {self.at_most:g} at every step, but the schedule reaches {reached:g}")
        return value


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
    return max(weight.turning_points) if isinstance(weight, Schedule) else weight


def at_step(weight: float | Schedule, step: int | None, field: str) -> float:
    """Return what a weight is at a step.

    Args:
        weight: the weight.
        step: how many optimizer steps have been taken; None if the caller does not say.
        field: where the weight stands in the spec, for the message.

    Raises:
        InputError: it depends on the step, which is not given.

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
    return weight.at(step)


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


def _schedule_class(options: Mapping[Any, Any]) -> type[Schedule]:
    name = options.get("name")
    if not isinstance(name, str):
        raise ValueError(f"expected a number, or a mapping with a schedule's name under 'name', got {dict(options)!r}")
    if name not in SCHEDULES:
        hint = did_you_mean(name, list(SCHEDULES))
        raise ValueError(f"unknown schedule {name!r}{hint}; the schedules are {', '.join(SCHEDULES)}")
    return SCHEDULES[name]


def _dump(weight: float | Schedule, info: core_schema.SerializationInfo) -> float | dict[str, Any]:
    return weight.model_dump(mode=info.mode) if isinstance(weight, Schedule) else weight
