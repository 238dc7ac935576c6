"""What the schedules share that go from one number to another within some steps."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from dskd_components.schedules.schedule import Schedule, Step, Value, between

if TYPE_CHECKING:
    from collections.abc import Iterable


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

    @abstractmethod
    def _eased(self, fraction: float) -> float:
        """Return which part of the way is done after a fraction of the steps: 0 at 0, 1 at 1."""
