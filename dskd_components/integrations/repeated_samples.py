"""Samples that a sampler has repeated so that all ranks have equally many."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def own_rows(batch: Mapping[str, Tensor], *, rank: int, remainder: int) -> int:
    """Return how many leading rows of a rank's last batch are samples that no other rank has.

    Args:
        batch: the columns of this rank, as many rows as on the other ranks.
        rank: the rank.
        remainder: how many samples the ranks' last batches hold together without repetitions.

    Examples:
        >>> import torch
        >>> batch = {"student_labels": torch.zeros(2, 5)}
        >>> [own_rows(batch, rank=rank, remainder=3) for rank in (0, 1, 2)]
        [2, 1, 0]
    """
    rows = max(len(column) for column in batch.values() if column.ndim)
    return min(max(remainder - rank * rows, 0), rows)


def first_rows(batch: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Return the leading rows of a batch; numbers of the whole batch stay as they are.

    Args:
        batch: the columns.
        rows: how many.
    """
    return {name: column[:rows] if column.ndim else column for name, column in batch.items()}
