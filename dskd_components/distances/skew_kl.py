"""Skew Kullback-Leibler divergence."""

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


class SkewKL(Distance):
    """Skew forward KL: ``KL(teacher || alpha teacher + (1 - alpha) student)``. At most ``-log(alpha)`` nats.

    Examples:
        >>> import torch
        >>> SkewKL(alpha=0.5)(torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.0, 1.0]]).log())
        tensor([0.6931])
    """

    source: ClassVar[str] = "Ko et al. 2024 (DistiLLM), arXiv 2402.03898, section 3.1"
    refinement_invariant: ClassVar[bool] = True

    name: Literal["skew_kl"] = "skew_kl"
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The share of the teacher that is mixed into the student."""

    @property
    def upper_bound(self) -> float:
        """``-log(alpha)``."""
        return -math.log(self.alpha)

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        """Return ``[N]``, nats."""
        mixture = log_mixture(teacher_log_probs, student_log_probs, self.alpha)
        return relative_entropy(teacher_log_probs, mixture)

    def value_and_gradients(
        self, student: Distribution, teacher: Distribution, *, student_gradient: bool, teacher_gradient: bool
    ) -> DistanceGradients:
        """Return values and gradients in closed form."""
        values, of_teacher, of_student = skewed_relative_entropy(
            teacher, student, self.alpha, p_gradient=teacher_gradient, q_gradient=student_gradient
        )
        return DistanceGradients(values=values, student=of_student, teacher=of_teacher)
