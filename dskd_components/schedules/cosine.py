"""Half a wave of a cosine from one number to another."""

from __future__ import annotations

import math
from typing import Literal

from dskd_components.schedules.ramp import Ramp


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
