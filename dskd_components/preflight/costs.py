"""What one component of a training step costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Basis = Literal["measured", "scaled from a measured step", "arithmetic"]


@dataclass(frozen=True)
class StepCost:
    """The cost of one component of a training step.

    Args:
        component: what costs it.
        seconds: time; 0 for what is only held.
        bytes: memory; 0 where it is counted elsewhere.
        basis: how it is known.
    """

    component: str
    seconds: float
    bytes: int
    basis: Basis
