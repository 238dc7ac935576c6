"""The Kullback-Leibler divergences: forward, from the teacher to the student, and reverse."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dskd_components.components.distance import Distance, DistanceGradients, PartOfDistances
from dskd_components.distances.log_space import (
    part_of_relative_entropy,
    relative_entropy,
    relative_entropy_and_gradients,
)

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.distribution import Distribution


class KL(Distance):
    """Forward KL: ``KL(teacher || student)``. Mass-covering; the distance of classical distillation.

    Examples:
        >>> import torch
        >>> KL()(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.5, 0.5]]).log())
        tensor([0.1438])
    """

    source: ClassVar[str] = "Hinton et al. 2015, arXiv 1503.02531"
    refinement_invariant: ClassVar[bool] = True
    smooth: ClassVar[bool] = True
    sums_over_vocabulary: ClassVar[bool] = True

    name: Literal["kl"] = "kl"

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        """Return ``[N]``, nats."""
        return relative_entropy(teacher_log_probs, student_log_probs)

    def value_and_gradients(
        self, student: Distribution, teacher: Distribution, *, student_gradient: bool, teacher_gradient: bool
    ) -> DistanceGradients:
        """Return values and gradients in closed form."""
        values, of_teacher, of_student = relative_entropy_and_gradients(
            teacher, student, p_gradient=teacher_gradient, q_gradient=student_gradient
        )
        return DistanceGradients(values=values, student=of_student, teacher=of_teacher)

    def over_part(
        self, student: Distribution, teacher: Distribution, *, student_derivative: bool, teacher_derivative: bool
    ) -> PartOfDistances:
        """Return values and derivatives in closed form."""
        values, of_teacher, of_student = part_of_relative_entropy(
            teacher, student, p_derivative=teacher_derivative, q_derivative=student_derivative
        )
        return PartOfDistances(values=values, student=of_student, teacher=of_teacher)


class ReverseKL(Distance):
    """Reverse KL: ``KL(student || teacher)``. Mode-seeking.

    Examples:
        >>> import torch
        >>> ReverseKL()(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log())
        tensor([0.1438])
    """

    source: ClassVar[str] = "Gu et al. 2024 (MiniLLM), arXiv 2306.08543"
    refinement_invariant: ClassVar[bool] = True
    smooth: ClassVar[bool] = True
    sums_over_vocabulary: ClassVar[bool] = True

    name: Literal["reverse_kl"] = "reverse_kl"

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        """Return ``[N]``, nats."""
        return relative_entropy(student_log_probs, teacher_log_probs)

    def value_and_gradients(
        self, student: Distribution, teacher: Distribution, *, student_gradient: bool, teacher_gradient: bool
    ) -> DistanceGradients:
        """Return values and gradients in closed form."""
        values, of_student, of_teacher = relative_entropy_and_gradients(
            student, teacher, p_gradient=student_gradient, q_gradient=teacher_gradient
        )
        return DistanceGradients(values=values, student=of_student, teacher=of_teacher)

    def over_part(
        self, student: Distribution, teacher: Distribution, *, student_derivative: bool, teacher_derivative: bool
    ) -> PartOfDistances:
        """Return values and derivatives in closed form."""
        values, of_student, of_teacher = part_of_relative_entropy(
            student, teacher, p_derivative=student_derivative, q_derivative=teacher_derivative
        )
        return PartOfDistances(values=values, student=of_student, teacher=of_teacher)
