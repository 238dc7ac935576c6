"""`Schedule`: a number that depends on the optimizer step, and on nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field

from dskd_components.components.component import FrozenModel

if TYPE_CHECKING:
    from collections.abc import Iterable

Value = Annotated[float, Field(ge=0)]
"""A weight: finite, and not negative."""
Step = Annotated[int, Field(ge=0)]
"""How many optimizer steps have been taken; the first one is made at 0."""


def _require_name(schema: dict[str, Any]) -> None:
    schema["required"] = ["name", *(field for field in schema.get("required", []) if field != "name")]


class Schedule(FrozenModel, ABC):
    """Options of a schedule, and the number that they give at a step. It has no state: the loop counts the steps."""

    model_config = ConfigDict(json_schema_extra=_require_name)

    name: str

    @abstractmethod
    def at(self, step: int) -> float:
        """Return the number at a step.

        Args:
            step: how many optimizer steps have been taken, 0 at the first.
        """

    @property
    @abstractmethod
    def turning_points(self) -> Iterable[float]:
        """The numbers between which the schedule moves; it never leaves their range."""


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
