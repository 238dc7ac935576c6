"""Reverse Kullback-Leibler divergence."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dskd_components.contracts.distance import Distance
from dskd_components.distances.log_space import relative_entropy

if TYPE_CHECKING:
    from torch import Tensor


class ReverseKL(Distance):
    """Reverse KL: ``KL(student || teacher)``. Mode-seeking.

    Examples:
        >>> import torch
        >>> ReverseKL()(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log())
        tensor([0.1438])
    """

    source: ClassVar[str] = "Gu et al. 2024 (MiniLLM), arXiv 2306.08543"
    refinement_invariant: ClassVar[bool] = True

    name: Literal["reverse_kl"] = "reverse_kl"

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        """Return ``[N]``, nats."""
        return relative_entropy(student_log_probs, teacher_log_probs)
