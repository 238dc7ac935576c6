"""`SharedTokens`: which entries of two vocabularies are the same token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class SharedTokens:
    """The tokens that both models have, each once: the k-th of one side is the k-th of the other.

    Args:
        student_ids: ``[K]``, int64: their ids in the student's vocabulary.
        teacher_ids: ``[K]``, int64: their ids in the teacher's.
    """

    student_ids: Tensor
    teacher_ids: Tensor

    @classmethod
    def one_to_one(cls, student_ids: Tensor, teacher_ids: Tensor) -> Self:
        """Return the pairs that are left when each of the student's tokens keeps the first of its partners.

        Two tokens of a vocabulary may stand for the same bytes (a byte token and an ordinary one), so a map from the
        teacher's tokens to the student's may meet a token of the student twice.

        Args:
            student_ids: ``[M]``, int64.
            teacher_ids: ``[M]``, int64, different from one another.

        Examples:
            >>> import torch
            >>> SharedTokens.one_to_one(torch.tensor([5, 3, 5]), torch.tensor([0, 1, 2])).teacher_ids
            tensor([1, 0])
        """
        kept, of_pair = torch.unique(student_ids, return_inverse=True)
        pairs = torch.arange(len(student_ids), device=student_ids.device)
        first = torch.full_like(kept, len(pairs)).scatter_reduce(0, of_pair, pairs, "amin")
        return cls(student_ids=kept, teacher_ids=teacher_ids[first])
