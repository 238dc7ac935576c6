"""Alpha divergence of Amari."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from dskd_components import Distance
from dskd_components.distances.log_space import without_negative_rounding


class Alpha(Distance):
    """Alpha divergence: ``(1 - sum teacher^alpha student^(1 - alpha)) / (alpha (1 - alpha))``.

    It leads from reverse KL (alpha towards 0) to forward KL (alpha towards 1), and at alpha 1/2 is four times the
    squared Hellinger distance. Strictly between its ends it is bounded, by ``1 / (alpha (1 - alpha))``, whatever either
    side rules out. Orders outside of them, the chi-squared divergences (2 and -1) among them, hold ratios of
    probabilities, which overflow for a token that one side all but rules out; they are refused. Amari's own parameter
    is ``2 alpha - 1``, up to its sign.

    Examples:
        >>> import torch
        >>> Alpha(alpha=0.5)(torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.5, 0.5]]).log())
        tensor([1.1716])
    """

    source: ClassVar[str] = "Amari 1985; Cichocki and Amari 2010, Entropy 12(6)"
    sums_over_vocabulary: ClassVar[bool] = True

    name: Literal["alpha"] = "alpha"
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The teacher's exponent; the student's is 1 minus it. Rounding grows as ``1 / (alpha (1 - alpha))``."""

    @property
    def upper_bound(self) -> float | None:
        """``1 / (alpha (1 - alpha))``, where nothing is in common."""
        return 1 / (self.alpha * (1 - self.alpha))

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        """Return ``[N]``, nats in the limits."""
        geometric = (self.alpha * teacher_log_probs + (1 - self.alpha) * student_log_probs).exp()
        # Token by token: the arithmetic mean exceeds the geometric one, and their sums are 1 and what is wanted.
        arithmetic = torch.lerp(student_log_probs.exp(), teacher_log_probs.exp(), self.alpha)
        return without_negative_rounding((arithmetic - geometric).sum(-1)) / (self.alpha * (1 - self.alpha))
