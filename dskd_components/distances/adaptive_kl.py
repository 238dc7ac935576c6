"""Adaptive Kullback-Leibler divergence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import torch
from pydantic import Field

from dskd_components.components.distance import Distance, DistanceGradients
from dskd_components.distances.log_space import (
    expectation,
    relative_entropy,
    through_log_softmax,
    without_negative_rounding,
)

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.distribution import Distribution

BORDER: Final = 1e-6
"""Keeps round cumulative probabilities (0.5, say), which rounding puts now on this side of alpha and now on that, on
one side of it."""


class AdaptiveKL(Distance):
    """Adaptive KL: ``w KL(teacher || student) + (1 - w) KL(student || teacher)``.

    The teacher's distribution is cut into a head and a tail, its least likely tokens with a total below alpha; w is
    the head's share of ``|teacher - student|``, a constant for the gradient. Tokens that are equally likely belong to
    the same part, whatever their ids.

    Examples:
        >>> import torch
        >>> AdaptiveKL()(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.25, 0.75]]).log())
        tensor([0.])
    """

    source: ClassVar[str] = "Wu et al. 2025, arXiv 2404.02657, section 4"
    gradient_is_derivative: ClassVar[bool] = False

    name: Literal["adaptive_kl"] = "adaptive_kl"
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The probability that the teacher's tail stays below."""

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        """Return ``[N]``, nats."""
        weight = self._forward_weight(student_log_probs.detach(), teacher_log_probs.detach())
        forward = relative_entropy(teacher_log_probs, student_log_probs)
        reverse = relative_entropy(student_log_probs, teacher_log_probs)
        return weight * forward + (1 - weight) * reverse

    def value_and_gradients(
        self, student: Distribution, teacher: Distribution, *, student_gradient: bool, teacher_gradient: bool
    ) -> DistanceGradients:
        """Return values and gradients in closed form."""
        weight = self._forward_weight(student.log_probs, teacher.log_probs)
        excess, shortfall = student.log_ratio(teacher), teacher.log_ratio(student)
        mean_shortfall, mean_excess = expectation(teacher.probs, shortfall), expectation(student.probs, excess)
        forward, reverse = without_negative_rounding(mean_shortfall), without_negative_rounding(mean_excess)
        of_student = of_teacher = None
        if student_gradient:
            of_student = (student.probs - teacher.probs).mul_(weight[:, None])
            through = through_log_softmax(student.probs, excess, out=excess, mean=mean_excess)
            of_student.addcmul_(through, 1 - weight[:, None])
        if teacher_gradient:
            of_teacher = (teacher.probs - student.probs).mul_(1 - weight[:, None])
            through = through_log_softmax(teacher.probs, shortfall, out=shortfall, mean=mean_shortfall)
            of_teacher.addcmul_(through, weight[:, None])
        return DistanceGradients(
            values=weight * forward + (1 - weight) * reverse, student=of_student, teacher=of_teacher
        )

    def _forward_weight(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        """Return ``[N]``: the head's share of the gap; a half where there is no gap to share."""
        teacher = teacher_log_probs.exp()
        gap = (teacher - student_log_probs.exp()).abs()
        ascending = teacher.sort(-1).values
        # The first token whose total is not below alpha is in the head, and those that are as likely with it.
        in_tail = (ascending.cumsum(-1) < self.alpha - BORDER).sum(-1, keepdim=True)
        least_of_head = ascending.gather(-1, in_tail.clamp_max(ascending.shape[-1] - 1))
        tail_gap = (gap * (teacher < least_of_head)).sum(-1)
        whole_gap = gap.sum(-1)
        head_share = (whole_gap - tail_gap) / whole_gap
        return torch.where(whole_gap > 0, head_share, torch.full_like(whole_gap, 0.5)).clamp(0, 1)
