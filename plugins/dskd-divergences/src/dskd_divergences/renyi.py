"""Rényi divergence."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from dskd_components import Distance
from dskd_components.distances.log_space import without_negative_rounding


class Renyi(Distance):
    """Rényi divergence: ``log(sum teacher^alpha student^(1 - alpha)) / (alpha - 1)``, in nats.

    It grows with alpha, up to forward KL in the limit of 1; at 1/2 it is symmetric, twice the Bhattacharyya distance.
    As the two have less in common it grows without bound.

    Examples:
        >>> import torch
        >>> Renyi(alpha=0.5)(torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.5, 0.5]]).log())
        tensor([0.6931])
    """

    source: ClassVar[str] = "Rényi 1961; van Erven and Harremoës 2014, arXiv 1206.2459"

    name: Literal["renyi"] = "renyi"
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The order. Rounding grows as ``1 / (1 - alpha)``: use ``kl`` for the limit."""

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        """Return ``[N]``, nats; infinite where the two have no token in common."""
        affinity = (self.alpha * teacher_log_probs + (1 - self.alpha) * student_log_probs).logsumexp(-1)
        return without_negative_rounding(affinity / (self.alpha - 1))
