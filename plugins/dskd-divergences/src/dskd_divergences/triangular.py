"""Triangular discrimination."""

import math
from typing import ClassVar, Literal

from torch import Tensor

from dskd_components import Distance


class Triangular(Distance):
    """Triangular discrimination: ``sum (student - teacher)^2 / (student + teacher)``.

    Symmetric, between 0 and 2, and smooth; also named after Vincze and Le Cam, with other factors. Half of it is the
    chi-squared divergence of either side from the mean of both, where the plain one divides by one side alone, and
    overflows for a token that this side all but rules out. Its root is a metric.

    Examples:
        >>> import torch
        >>> Triangular()(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.5, 0.5]]).log())
        tensor([0.1333])
    """

    source: ClassVar[str] = "Le Cam 1986; Topsøe 2000, IEEE Transactions on Information Theory 46(4)"
    symmetric: ClassVar[bool] = True
    sums_over_vocabulary: ClassVar[bool] = True

    name: Literal["triangular"] = "triangular"

    @property
    def upper_bound(self) -> float | None:
        """2, where nothing is in common."""
        return 2.0

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        """Return ``[N]``, without unit."""
        absent = (student_log_probs == -math.inf) & (teacher_log_probs == -math.inf)
        log_ratio = (student_log_probs - teacher_log_probs).masked_fill(absent, 0.0)
        # (p - q) / (p + q) is this of the logarithms, with nothing to divide by that could be 0.
        relative_difference = (0.5 * log_ratio).tanh()
        return ((student_log_probs.exp() - teacher_log_probs.exp()) * relative_difference).sum(-1)
