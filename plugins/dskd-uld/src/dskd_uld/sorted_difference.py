"""The difference between two distributions that are sorted by size, over vocabularies of any two sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def sorted_difference(student_probs: Tensor, teacher_probs: Tensor) -> Tensor:
    """Return ``sum abs(p - q)`` of each row, the greatest of one side against the greatest of the other, and so on.

    It looks at how much probability is spread over how many tokens, never at which ones, so the two sides need not have
    a token in common. Of all pairings of the two sides' tokens this one has the least sum.

    Args:
        student_probs: ``[N, Vs]``, non-negative.
        teacher_probs: ``[N, Vt]``, non-negative. The narrower side is filled up with zeros.

    Returns:
        ``[N]``, in units of probability: from 0 to what the two sides add up to, 2 for whole distributions.

    Examples:
        >>> import torch
        >>> sorted_difference(torch.tensor([[0.1, 0.9]]), torch.tensor([[0.9, 0.1, 0.0]]))
        tensor([0.])
    """
    width = max(student_probs.shape[-1], teacher_probs.shape[-1])
    student, teacher = (
        F.pad(side.sort(-1, descending=True).values, (0, width - side.shape[-1]))
        for side in (student_probs, teacher_probs)
    )
    return (student - teacher).abs().sum(-1)
