"""Faulty schedules: a number falls from 1 to 0.5, with one thing wrong."""

from __future__ import annotations

import math
import random
from itertools import count
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from dskd_components import Schedule
from tests.helpers.fault import Fault, collected

SCHEDULE_FAULTS: list[Fault] = []


def fault(what: str, law: str) -> Any:
    return collected(SCHEDULE_FAULTS, what, law)


class Falls(Schedule):
    """In a straight line."""

    name: Literal["faulty"] = "faulty"
    steps: Annotated[int, Field(gt=0)] = 8

    def at(self, step: int) -> float:
        return 1 - 0.5 * min(step / self.steps, 1)

    @property
    def turning_points(self) -> tuple[float, ...]:
        return 1.0, 0.5

    @property
    def final_step(self) -> int:
        return self.steps


@fault("no number at the first step", "numbers_are_finite_and_not_negative")
class NoNumberAtFirst(Falls):
    def at(self, step: int) -> float:
        return 0.5 if step >= self.steps else 0.5 + 0.5 * (step * math.inf * 0 + 1)


@fault("a weight that becomes negative", "numbers_are_finite_and_not_negative")
class BecomesNegative(Falls):
    def at(self, step: int) -> float:
        return 1 - step / self.steps


@fault("the number is a text", "numbers_are_finite_and_not_negative")
class GivesText(Falls):
    def at(self, step: int) -> Any:
        return str(super().at(step))


@fault("half-way it is higher than it says", "it_keeps_to_the_range_of_its_turning_points")
class Overshoots(Falls):
    def at(self, step: int) -> float:
        done = min(step / self.steps, 1)
        return super().at(step) + math.sin(math.pi * done) ** 2


@fault("no turning points are named", "it_keeps_to_the_range_of_its_turning_points")
class NamesNothing(Falls):
    @property
    def turning_points(self) -> tuple[float, ...]:
        return ()


@fault("it goes on beyond its last step", "from_the_final_step_on_nothing_changes")
class GoesOn(Falls):
    @property
    def final_step(self) -> int:
        return self.steps // 2


@fault("a last step that is none", "from_the_final_step_on_nothing_changes")
class HasNoEnd(Falls):
    @property
    def final_step(self) -> Any:
        return math.inf


@fault("it counts how often it is asked", "the_same_step_gives_the_same_number")
class Counts(Falls):
    calls: ClassVar[Any] = count()

    def at(self, step: int) -> float:
        return super().at(min(next(self.calls) % 2, step))


@fault("chance", "the_same_step_gives_the_same_number")
class Jitters(Falls):
    def at(self, step: int) -> float:
        return super().at(step) if step >= self.steps else random.uniform(0.5, 1)


@fault("an option that does nothing", "options_have_an_effect")
class IgnoresAnOption(Falls):
    begin: Annotated[int, Field(ge=0)] = 0


@fault("an option that makes it unhashable", "a_spec_file_restores_it")
class HasAList(Falls):
    bounds: list[float] = Field(default_factory=lambda: [1.0, 0.5])

    @property
    def turning_points(self) -> tuple[float, ...]:
        return tuple(self.bounds)
