"""Alpha-beta divergence."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from dskd_components import Distance
from dskd_components.distances.log_space import without_negative_rounding


class AlphaBeta(Distance):
    """Alpha-beta divergence: Young's inequality, by how much it is strict, over alpha beta and token by token.

    ``sum (a p^(a + b) / (a + b) + b q^(a + b) / (a + b) - p^a q^b) / (a b)`` for the teacher p, the student q,
    ``a = alpha`` and ``b = beta``. Where the exponents add up to 1 it is ``alpha``; a smaller sum gives unlikely tokens
    more weight, a larger one less. Only positive exponents are taken, so nothing is divided by a probability.

    Examples:
        >>> import torch
        >>> AlphaBeta(alpha=1, beta=1)(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.5, 0.5]]).log())
        tensor([0.0625])
    """

    source: ClassVar[str] = "Cichocki, Cruces and Amari 2011, Entropy 13(1); Wang et al. 2025 (ABKD), arXiv 2505.04560"
    sums_over_vocabulary: ClassVar[bool] = True

    name: Literal["alpha_beta"] = "alpha_beta"
    alpha: Annotated[float, Field(gt=0, le=10)] = 0.2
    """The teacher's exponent in the product."""
    beta: Annotated[float, Field(gt=0, le=10)] = 0.7
    """The student's exponent in the product."""

    @property
    def upper_bound(self) -> float | None:
        """``1 / (alpha beta)`` if the exponents add up to 1 at least; else it grows with the vocabulary."""
        return 1 / (self.alpha * self.beta) if self.alpha + self.beta >= 1 else None

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        """Return ``[N]``, nats in the limits."""
        alpha, beta, both = self.alpha, self.beta, self.alpha + self.beta
        product = (alpha * teacher_log_probs + beta * student_log_probs).exp()
        # Exponents are added up alike in all three, so that nothing but 0 is left where both sides are equal.
        teacher_power = (alpha * teacher_log_probs + beta * teacher_log_probs).exp()
        student_power = (alpha * student_log_probs + beta * student_log_probs).exp()
        gaps = alpha / both * (teacher_power - product) + beta / both * (student_power - product)
        return without_negative_rounding(gaps.sum(-1)) / (alpha * beta)
