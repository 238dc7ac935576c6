"""The skewed Kullback-Leibler divergences, forward and reverse, against a mixture of both distributions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field

from dskd_components.components.distance import Distance, DistanceGradients, PartOfDistances
from dskd_components.distances.log_space import (
    expectation,
    log_mixture,
    log_of_mixture,
    log_ratio_to_mixture,
    relative_entropy,
    through_log_softmax,
    without_negative_rounding,
)

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.distribution import Distribution


def _skewed_divergence(log_p: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    """Return ``KL(p || alpha p + (1 - alpha) q)`` of each row, for autograd: the forward form, and the reverse one."""
    return relative_entropy(log_p, log_mixture(log_p, log_q, alpha))


def skewed_relative_entropy(
    p: Distribution, q: Distribution, alpha: float, *, p_gradient: bool, q_gradient: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return ``KL(p || m)`` for ``m = alpha p + (1 - alpha) q``, and its gradients with respect to logits.

    Args:
        p: ``[N, V]``.
        q: ``[N, V]``.
        alpha: p's share of the mixture, strictly between 0 and 1.
        p_gradient: whether the gradient with respect to p's logits is wanted.
        q_gradient: whether the gradient with respect to q's logits is wanted.

    Returns:
        Values ``[N]``, nats; the gradients ``[N, V]``, each None where not wanted.
    """
    # The derivatives are log(p / m) - alpha p / m with respect to p, and -(1 - alpha) p / m with respect to q.
    share, ratio = _ratio_to_mixture(p, q, alpha)
    values = without_negative_rounding(expectation(p.probs, ratio))
    of_p = through_log_softmax(p.probs, ratio.sub_(share, alpha=alpha), out=ratio) if p_gradient else None
    of_q = through_log_softmax(q.probs, share, out=share).mul_(alpha - 1) if q_gradient else None
    return values, of_p, of_q


def part_of_skewed_relative_entropy(
    p: Distribution, q: Distribution, alpha: float, *, p_derivative: bool, q_derivative: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return what some tokens add to ``KL(p || m)``, and its derivatives with respect to their log-probabilities.

    Args:
        p: ``[N, W]``, a part of the vocabulary.
        q: ``[N, W]``.
        alpha: as in `skewed_relative_entropy`.
        p_derivative: whether the derivative with respect to log p is wanted.
        q_derivative: whether that with respect to log q is.

    Returns:
        Values ``[N]``, nats, of either sign; the derivatives ``[N, W]``, each None where not wanted.
    """
    share, ratio = _ratio_to_mixture(p, q, alpha)
    values = expectation(p.probs, ratio)
    of_p = ratio.add_(1).sub_(share, alpha=alpha).mul_(p.probs) if p_derivative else None
    of_q = share.mul_(q.probs).mul_(alpha - 1) if q_derivative else None
    return values, of_p, of_q


def _ratio_to_mixture(p: Distribution, q: Distribution, alpha: float) -> tuple[Tensor, Tensor]:
    """Return ``p / m`` and ``log(p / m)``, finite where both have underflowed, each ``[N, W]`` and new."""
    mixture = torch.lerp(q.probs, p.probs, alpha)
    share = p.probs / mixture.clamp_min(torch.finfo(mixture.dtype).tiny)
    return share, log_ratio_to_mixture(p, log_of_mixture(mixture))


class SkewKL(Distance):
    """Skew forward KL: ``KL(teacher || alpha teacher + (1 - alpha) student)``. At most ``-log(alpha)`` nats.

    Examples:
        >>> import torch
        >>> SkewKL(alpha=0.5)(torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.0, 1.0]]).log())
        tensor([0.6931])
    """

    source: ClassVar[str] = "Ko et al. 2024 (DistiLLM), arXiv 2402.03898, section 3.1"
    refinement_invariant: ClassVar[bool] = True
    smooth: ClassVar[bool] = True
    sums_over_vocabulary: ClassVar[bool] = True

    name: Literal["skew_kl"] = "skew_kl"
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The share of the teacher that is mixed into the student."""

    @property
    def upper_bound(self) -> float:
        """``-log(alpha)``."""
        return -math.log(self.alpha)

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        """Return ``[N]``, nats."""
        return _skewed_divergence(teacher_log_probs, student_log_probs, self.alpha)

    def value_and_gradients(
        self, student: Distribution, teacher: Distribution, *, student_gradient: bool, teacher_gradient: bool
    ) -> DistanceGradients:
        """Return values and gradients in closed form."""
        values, of_teacher, of_student = skewed_relative_entropy(
            teacher, student, self.alpha, p_gradient=teacher_gradient, q_gradient=student_gradient
        )
        return DistanceGradients(values=values, student=of_student, teacher=of_teacher)

    def over_part(
        self, student: Distribution, teacher: Distribution, *, student_derivative: bool, teacher_derivative: bool
    ) -> PartOfDistances:
        """Return values and derivatives in closed form."""
        values, of_teacher, of_student = part_of_skewed_relative_entropy(
            teacher, student, self.alpha, p_derivative=teacher_derivative, q_derivative=student_derivative
        )
        return PartOfDistances(values=values, student=of_student, teacher=of_teacher)


class SkewReverseKL(Distance):
    """Skew reverse KL: ``KL(student || (1 - alpha) teacher + alpha student)``. At most ``-log(alpha)`` nats.

    Examples:
        >>> import torch
        >>> SkewReverseKL(alpha=0.5)(torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.0, 1.0]]).log())
        tensor([0.6931])
    """

    source: ClassVar[str] = "Ko et al. 2024 (DistiLLM), arXiv 2402.03898, section 3.1"
    refinement_invariant: ClassVar[bool] = True
    smooth: ClassVar[bool] = True
    sums_over_vocabulary: ClassVar[bool] = True

    name: Literal["skew_reverse_kl"] = "skew_reverse_kl"
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The share of the student that is mixed into the teacher."""

    @property
    def upper_bound(self) -> float:
        """``-log(alpha)``."""
        return -math.log(self.alpha)

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        """Return ``[N]``, nats."""
        return _skewed_divergence(student_log_probs, teacher_log_probs, self.alpha)

    def value_and_gradients(
        self, student: Distribution, teacher: Distribution, *, student_gradient: bool, teacher_gradient: bool
    ) -> DistanceGradients:
        """Return values and gradients in closed form."""
        values, of_student, of_teacher = skewed_relative_entropy(
            student, teacher, self.alpha, p_gradient=student_gradient, q_gradient=teacher_gradient
        )
        return DistanceGradients(values=values, student=of_student, teacher=of_teacher)

    def over_part(
        self, student: Distribution, teacher: Distribution, *, student_derivative: bool, teacher_derivative: bool
    ) -> PartOfDistances:
        """Return values and derivatives in closed form."""
        values, of_student, of_teacher = part_of_skewed_relative_entropy(
            student, teacher, self.alpha, p_derivative=student_derivative, q_derivative=teacher_derivative
        )
        return PartOfDistances(values=values, student=of_student, teacher=of_teacher)
