"""`MultiTeacherSpec`: what a student learns from several teachers, each with choices of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, field_validator
from torch import nn

from dskd_components.components.component import Frozen, FrozenMapping, FrozenModel
from dskd_components.engines.field import AnyEngine
from dskd_components.engines.reduction import LossWeights
from dskd_components.engines.tiled import Tiled
from dskd_components.models.batch import require_teacher_name, require_teacher_names
from dskd_components.spec.dskd_spec import DSKDSpec, PairSpec
from dskd_components.spec.schedules import (
    Share,
    Weight,
    at_step,
    checked_step,
    highest,
    last_change,
    scheduled_among,
)

if TYPE_CHECKING:
    from typing import Self

    from dskd_components.components.schedule import Schedule


def _usable_name(name: str) -> str:
    if hasattr(nn.ModuleDict(), name):
        raise ValueError(f"a teacher cannot be called {name!r}: torch has that name for something else")
    return require_teacher_name(name)


TeacherName = Annotated[str, AfterValidator(_usable_name)]


class TeacherSpec(PairSpec):
    """What the student learns from one of several teachers: the fields of `DSKDSpec` that concern a pair of models.

    Examples:
        >>> TeacherSpec.preset("dskd-cma", weight=0.3).weight
        0.3
    """

    weight: Weight = 1.0
    """What all terms of this teacher are multiplied with; a number, or a schedule over the optimizer steps. Weights are
    taken as they are: nothing makes them add up to 1."""


class MultiTeacherSpec(FrozenModel):
    """``loss = (1 - kd_rate) ce + kd_rate (sum over teachers of weight * weighted sum of their spaces' terms)``.

    The student's own cross entropy is there once. With one teacher of weight 1 it is what `DSKDSpec` says.

    Examples:
        >>> spec = MultiTeacherSpec(
        ...     teachers={
        ...         "large": TeacherSpec.preset("dskd-cma", weight=0.7),
        ...         "code": {"aligner": "span", "weight": {"name": "linear", "start": 0, "end": 0.3, "steps": 100}},
        ...     }
        ... )
        >>> MultiTeacherSpec.model_validate_json(spec.model_dump_json()) == spec
        True
        >>> spec.at(50).teachers["code"].weight
        0.15
    """

    teachers: Annotated[Mapping[TeacherName, TeacherSpec], Frozen()]
    """By name, which also starts the names of the teacher's columns and terms. The order makes no difference."""
    kd_rate: Share = 0.5
    """Share of the teachers' terms in the loss; the student's own cross entropy has the rest. A number, or a schedule
    over the optimizer steps."""
    reduction: Literal["mean", "sum"] = "mean"
    """As in `DSKDSpec`."""
    engine: AnyEngine = Tiled()
    """As in `DSKDSpec`."""

    @field_validator("teachers")
    @classmethod
    def _that_count(cls, teachers: Mapping[str, TeacherSpec]) -> Mapping[str, TeacherSpec]:
        if not teachers:
            raise ValueError("expected at least one teacher")
        require_teacher_names(teachers)
        if not any(highest(teacher.weight) for teacher in teachers.values()):
            raise ValueError("expected a teacher whose weight is not 0; all of them have weight 0 at every step")
        return teachers

    def pair(self, name: str) -> DSKDSpec:
        """Return what a loss for the student and one teacher alone is built from.

        Args:
            name: of the teacher.
        """
        teacher = self.teachers[name]
        of_pair: dict[str, Any] = {field: getattr(teacher, field) for field in PairSpec.model_fields}
        return DSKDSpec(**of_pair, kd_rate=self.kd_rate, reduction=self.reduction, engine=self.engine)

    def loss_weights(self, step: int | None = None) -> dict[str, LossWeights]:
        """Return what the terms of each teacher are multiplied with; the first teacher's call has the cross entropy.

        Args:
            step: how many optimizer steps have been taken, 0 at the first; needed if a weight is a schedule.

        Raises:
            InputError: the step is needed and missing, or it is no step.
        """
        step = checked_step(step)
        kd_rate = at_step(self.kd_rate, step, "kd_rate")
        first = next(iter(self.teachers))
        return {
            name: LossWeights(
                cross_entropy=1 - kd_rate if name == first else None,
                distillation=kd_rate * at_step(teacher.weight, step, f"teachers.{name}.weight"),
                by_term=teacher.term_weights(step),
            )
            for name, teacher in self.teachers.items()
        }

    @property
    def scheduled(self) -> dict[str, Schedule]:
        """The weights that follow a schedule, by where they stand: ``kd_rate``, ``teachers.large.weight``."""
        weights: dict[str, float | Schedule] = {"kd_rate": self.kd_rate}
        for name, teacher in self.teachers.items():
            of_teacher = {"weight": teacher.weight, **teacher.named_weights}
            weights |= {f"teachers.{name}.{field}": weight for field, weight in of_teacher.items()}
        return scheduled_among(weights)

    @property
    def final_step(self) -> int:
        """The step from which on no weight changes; see `DSKDSpec.final_step`."""
        return last_change(self.scheduled)

    def at(self, step: int) -> Self:
        """Return the spec of one step, in which every schedule has become its number.

        Args:
            step: how many optimizer steps have been taken, 0 at the first.

        Raises:
            InputError: it is no step.
        """
        now = checked_step(step)
        teachers = {
            name: teacher.replace(weight=at_step(teacher.weight, now, "weight"), weights=teacher.term_weights(now))
            for name, teacher in self.teachers.items()
        }
        # Not validated again: that all weights are 0 at one step is no mistake.
        return self.model_copy(
            update={"teachers": FrozenMapping(teachers), "kd_rate": at_step(self.kd_rate, now, "kd_rate")}
        )

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields set otherwise; the result is validated.

        Args:
            **changes: fields of the spec.

        Raises:
            pydantic.ValidationError: a field is unknown or out of range.
        """
        return type(self)(**(dict(self) | changes))
