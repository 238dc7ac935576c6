"""A straight way from one number to another."""

from __future__ import annotations

from typing import Literal

from dskd_components.schedules.ramp import Ramp


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
