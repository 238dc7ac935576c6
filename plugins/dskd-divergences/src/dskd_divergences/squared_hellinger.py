"""Squared Hellinger distance."""

from typing import ClassVar, Literal

from torch import Tensor

from dskd_components import Distance
from dskd_components.components import DistanceGradients, Distribution
from dskd_divergences.roots import Roots


class SquaredHellinger(Distance):
    """Squared Hellinger distance: ``1/2 sum (sqrt(student) - sqrt(teacher))^2 = 1 - sum sqrt(student teacher)``.

    Symmetric, between 0 and 1, and smooth where the two are equal, unlike its root ``hellinger``. It is a quarter of
    ``alpha`` with alpha 1/2.

    Examples:
        >>> import torch
        >>> SquaredHellinger()(torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.5, 0.5]]).log())
        tensor([0.2929])
    """

    source: ClassVar[str] = "Hellinger 1909; Le Cam and Yang 2000, Asymptotics in Statistics"
    symmetric: ClassVar[bool] = True
    sums_over_vocabulary: ClassVar[bool] = True

    name: Literal["squared_hellinger"] = "squared_hellinger"

    @property
    def upper_bound(self) -> float | None:
        """1, where nothing is in common."""
        return 1.0

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        """Return ``[N]``, without unit."""
        return Roots.of(student_log_probs, teacher_log_probs).half_squared_distance()

    def value_and_gradients(
        self, student: Distribution, teacher: Distribution, *, student_gradient: bool, teacher_gradient: bool
    ) -> DistanceGradients:
        """Return values and gradients in closed form."""
        roots = Roots.of(student.log_probs, teacher.log_probs)
        return DistanceGradients(
            values=roots.half_squared_distance(),
            student=roots.gradient(of_teacher=False) if student_gradient else None,
            teacher=roots.gradient(of_teacher=True) if teacher_gradient else None,
        )
