"""Skew reverse Kullback-Leibler divergence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dskd_components.components.distance import Distance, DistanceGradients
from dskd_components.distances.log_space import log_mixture, relative_entropy
from dskd_components.distances.skewed import skewed_relative_entropy

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.distribution import Distribution


class SkewReverseKL(Distance):
    """Skew reverse KL: ``KL(student || (1 - alpha) teacher + alpha student)``. At most ``-log(alpha)`` nats.

    Examples:
        >>> import torch
        >>> SkewReverseKL(alpha=0.5)(torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.0, 1.0]]).log())
        tensor([0.6931])
    """

    source: ClassVar[str] = "Ko et al. 2024 (DistiLLM), arXiv 2402.03898, section 3.1"
    refinement_invariant: ClassVar[bool] = True

    name: Literal["skew_reverse_kl"] = "skew_reverse_kl"
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The share of the student that is mixed into the teacher."""

    @property
    def upper_bound(self) -> float:
        """``-log(alpha)``."""
        return -math.log(self.alpha)

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        """Return ``[N]``, nats."""
        mixture = log_mixture(student_log_probs, teacher_log_probs, self.alpha)
        return relative_entropy(student_log_probs, mixture)

    def value_and_gradients(
        self, student: Distribution, teacher: Distribution, *, student_gradient: bool, teacher_gradient: bool
    ) -> DistanceGradients:
        """Return values and gradients in closed form."""
        values, of_student, of_teacher = skewed_relative_entropy(
            student, teacher, self.alpha, p_gradient=student_gradient, q_gradient=teacher_gradient
        )
        return DistanceGradients(values=values, student=of_student, teacher=of_teacher)
