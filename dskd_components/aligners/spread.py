"""Division by a standard deviation that padding cannot reach."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Scope = Literal["sample", "batch"]
"""Over what a standard deviation is taken."""


def divide_by_spread(values: Tensor, scored: Tensor, samples: Tensor, scope: Scope) -> Tensor:
    """Divide values by the standard deviation of all entries at the scored positions.

    Args:
        values: ``[B, T, d]``; unscored positions must be finite and are returned as zeros.
        scored: ``[B, T]``, bool.
        samples: ``[B, T]``, int64: a number that positions of one sample share.
        scope: one standard deviation for each sample, or one for the batch.

    Returns:
        ``[B, T, d]``. Where all entries are equal, and so have no spread, they are returned undivided.

    Examples:
        >>> values = torch.tensor([[[1.0], [3.0], [99.0]]])
        >>> scored = torch.tensor([[True, True, False]])
        >>> divide_by_spread(values, scored, torch.zeros(1, 3, dtype=torch.int64), "sample").squeeze()
        tensor([0.7071, 2.1213, 0.0000])
    """
    rows = values[scored]
    group_of_row = torch.zeros_like(samples[scored]) if scope == "batch" else samples[scored]
    groups, group_of_row = torch.unique(group_of_row, return_inverse=True)
    entries = torch.bincount(group_of_row, minlength=len(groups)).to(rows.dtype) * rows.shape[-1]

    def per_group(row_sums: Tensor) -> Tensor:
        return rows.new_zeros(len(groups)).index_add(0, group_of_row, row_sums)

    means = per_group(rows.sum(-1)) / entries
    squares = per_group((rows - means[group_of_row, None]).square().sum(-1))
    std = (squares / (entries - 1).clamp_min(1)).sqrt()
    divided = rows / std.where(std > 0, torch.ones_like(std))[group_of_row, None]
    result = torch.zeros_like(values)
    result[scored] = divided
    return result
