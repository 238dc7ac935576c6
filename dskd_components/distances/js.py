"""Generalised Jensen-Shannon divergence."""

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


class JS(Distance):
    """Generalised JS: ``beta KL(teacher || m) + (1 - beta) KL(student || m)``.

    Here ``m = beta teacher + (1 - beta) student``. Symmetric and at most log 2 nats for ``beta = 0.5``. It vanishes
    towards both ends of beta, so these are excluded: use ``kl`` or ``reverse_kl``, which its ratio to beta, or to
    1 - beta, tends to.

    Examples:
        >>> import torch
        >>> JS()(torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.0, 1.0]]).log())
        tensor([0.6931])
    """

    source: ClassVar[str] = "Agarwal et al. 2024 (GKD), arXiv 2306.13649, section 2"
    refinement_invariant: ClassVar[bool] = True
    smooth: ClassVar[bool] = True
    sums_over_vocabulary: ClassVar[bool] = True

    name: Literal["js"] = "js"
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The teacher's share of the mixture."""

    @property
    def symmetric(self) -> bool:  # type: ignore[override]
        """Whether both sides have equal shares."""
        return self.beta == 0.5

    @property
    def upper_bound(self) -> float:
        """The entropy of the two shares: log 2 for equal ones."""
        return -self.beta * math.log(self.beta) - (1 - self.beta) * math.log1p(-self.beta)

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        """Return ``[N]``, nats."""
        mixture = log_mixture(teacher_log_probs, student_log_probs, self.beta)
        of_teacher = relative_entropy(teacher_log_probs, mixture)
        of_student = relative_entropy(student_log_probs, mixture)
        return self.beta * of_teacher + (1 - self.beta) * of_student

    def value_and_gradients(
        self, student: Distribution, teacher: Distribution, *, student_gradient: bool, teacher_gradient: bool
    ) -> DistanceGradients:
        """Return values and gradients in closed form."""
        of_mixture = log_of_mixture(torch.lerp(student.probs, teacher.probs, self.beta))
        values, gradients = torch.zeros_like(of_mixture[:, 0]), []
        for side, share, wanted in ((student, 1 - self.beta, student_gradient), (teacher, self.beta, teacher_gradient)):
            ratio = log_ratio_to_mixture(side, of_mixture)
            # The ratio is needed again for the gradient alone.
            mean = expectation(side.probs, ratio, out=None if wanted else ratio)
            values += share * without_negative_rounding(mean)
            gradients.append(
                through_log_softmax(side.probs, ratio, out=ratio, mean=mean).mul_(share) if wanted else None
            )
        return DistanceGradients(values=values, student=gradients[0], teacher=gradients[1])

    def over_part(
        self, student: Distribution, teacher: Distribution, *, student_derivative: bool, teacher_derivative: bool
    ) -> PartOfDistances:
        """Return values and derivatives in closed form."""
        of_mixture = log_of_mixture(torch.lerp(student.probs, teacher.probs, self.beta))
        values, found = torch.zeros_like(of_mixture[:, 0]), []
        for side, share, wanted in (
            (student, 1 - self.beta, student_derivative),
            (teacher, self.beta, teacher_derivative),
        ):
            weighted = log_ratio_to_mixture(side, of_mixture).mul_(side.probs).mul_(share)
            values += weighted.sum(-1)
            # The mixture's own derivatives cancel.
            found.append(weighted if wanted else None)
        return PartOfDistances(values=values, student=found[0], teacher=found[1])
