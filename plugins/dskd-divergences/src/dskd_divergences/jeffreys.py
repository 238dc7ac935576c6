"""Jeffreys divergence."""

import math
from typing import ClassVar, Literal

from torch import Tensor

from dskd_components import Distance


class Jeffreys(Distance):
    """Jeffreys divergence: ``KL(teacher || student) + KL(student || teacher)``, in nats.

    Symmetric and unbounded: mass-covering and mode-seeking at once. It is computed as
    ``sum (student - teacher) (log student - log teacher)``, of which no token's share can be negative, not even by
    rounding.

    Examples:
        >>> import torch
        >>> Jeffreys()(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.5, 0.5]]).log())
        tensor([0.2747])
    """

    source: ClassVar[str] = "Jeffreys 1946; Kullback and Leibler 1951"
    symmetric: ClassVar[bool] = True
    sums_over_vocabulary: ClassVar[bool] = True

    name: Literal["jeffreys"] = "jeffreys"

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        """Return ``[N]``, nats; infinite where one side rules out what the other allows."""
        # Minus infinity on both sides would be 0 times NaN.
        absent = (student_log_probs == -math.inf) & (teacher_log_probs == -math.inf)
        log_ratio = (student_log_probs - teacher_log_probs).masked_fill(absent, 0.0)
        return ((student_log_probs.exp() - teacher_log_probs.exp()) * log_ratio).sum(-1)
