"""The Kullback-Leibler divergences: forward, from the teacher to the student, and reverse."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from dskd_components.components.distance import Distance, DistanceGradients, PartOfDistances
from dskd_components.distances.log_space import (
    expectation,
    part_of_relative_entropy,
    relative_entropy,
    through_log_softmax,
    without_negative_rounding,
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
        ratio = teacher.log_ratio(student)
        mean = expectation(teacher.probs, ratio, out=None if teacher_gradient else ratio)
        of_teacher = through_log_softmax(teacher.probs, ratio, out=ratio, mean=mean) if teacher_gradient else None
        free = None if teacher_gradient else ratio
        of_student = torch.sub(student.probs, teacher.probs, out=free) if student_gradient else None
        return DistanceGradients(values=without_negative_rounding(mean), student=of_student, teacher=of_teacher)

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
        ratio = student.log_ratio(teacher)
        mean = expectation(student.probs, ratio, out=None if student_gradient else ratio)
        of_student = through_log_softmax(student.probs, ratio, out=ratio, mean=mean) if student_gradient else None
        free = None if student_gradient else ratio
        of_teacher = torch.sub(teacher.probs, student.probs, out=free) if teacher_gradient else None
        return DistanceGradients(values=without_negative_rounding(mean), student=of_student, teacher=of_teacher)

    def over_part(
        self, student: Distribution, teacher: Distribution, *, student_derivative: bool, teacher_derivative: bool
    ) -> PartOfDistances:
        """Return values and derivatives in closed form."""
        values, of_student, of_teacher = part_of_relative_entropy(
            student, teacher, p_derivative=student_derivative, q_derivative=teacher_derivative
        )
        return PartOfDistances(values=values, student=of_student, teacher=of_teacher)
