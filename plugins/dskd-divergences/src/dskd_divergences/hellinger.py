"""Hellinger distance."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from dskd_components import Distance
from dskd_components.components import DistanceGradients, Distribution
from dskd_divergences.roots import Roots


class Hellinger(Distance):
    """Hellinger distance: ``sqrt(1/2 sum (sqrt(student) - sqrt(teacher))^2)``, a metric between 0 and 1.

    It falls linearly as the two approach one another, so where they are equal it has a kink, as the absolute value has
    at 0, and no derivative. The gradient there is 0, the one subgradient that leaves the student where it is; the
    gradient nearby has a length that does not vanish. Use ``squared_hellinger`` where training should come to rest.

    Examples:
        >>> import torch
        >>> Hellinger()(torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.5, 0.5]]).log())
        tensor([0.5412])
    """

    source: ClassVar[str] = "Hellinger 1909; Le Cam and Yang 2000, Asymptotics in Statistics"
    symmetric: ClassVar[bool] = True
    is_metric: ClassVar[bool] = True

    name: Literal["hellinger"] = "hellinger"

    @property
    def upper_bound(self) -> float | None:
        """1, where nothing is in common."""
        return 1.0

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        """Return ``[N]``, without unit."""
        squared = Roots.of(student_log_probs, teacher_log_probs).half_squared_distance()
        apart = _apart(squared)
        # The root of 1 stands in where there is no root to differentiate: infinity times 0 would be NaN.
        return squared.where(apart, 1.0).sqrt().where(apart, 0.0)

    def value_and_gradients(
        self, student: Distribution, teacher: Distribution, *, student_gradient: bool, teacher_gradient: bool
    ) -> DistanceGradients:
        """Return values and gradients in closed form."""
        roots = Roots.of(student.log_probs, teacher.log_probs)
        squared = roots.half_squared_distance()
        values = squared.sqrt().where(_apart(squared), 0.0)
        per_square = (0.5 / values).where(values > 0, 0.0)[:, None]
        return DistanceGradients(
            values=values,
            student=roots.gradient(of_teacher=False).mul_(per_square) if student_gradient else None,
            teacher=roots.gradient(of_teacher=True).mul_(per_square) if teacher_gradient else None,
        )


def _apart(squared: Tensor) -> Tensor:
    """Return which squared distances are more than rounding, whose gradient has an arbitrary direction."""
    return squared > (16 * torch.finfo(squared.dtype).eps) ** 2
