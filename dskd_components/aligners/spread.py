"""Standard deviations that padding cannot reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Scope = Literal["sample", "batch"]
"""Over what a standard deviation is taken."""

CHUNK: Final = 2**20
"""How many numbers are looked at together, rather than those of a whole batch."""


def spread(values: Callable[[slice], Tensor], width: int, scored: Tensor, samples: Tensor, scope: Scope) -> Tensor:
    """Return the standard deviation of all entries at the scored positions, for each position.

    Args:
        values: gives ``[b, T, d]`` for some rows of the batch; unscored positions must be finite.
        width: d.
        scored: ``[B, T]``, bool.
        samples: ``[B, T]``, int64: a number that positions of one sample share.
        scope: one standard deviation for each sample, or one for the batch.

    Returns:
        ``[B, T]``: what the values are to be divided by. 1 where all entries are equal, and so have no spread, and at
        unscored positions.

    Examples:
        >>> values = torch.tensor([[[1.0], [3.0], [99.0]]])
        >>> scored = torch.tensor([[True, True, False]])
        >>> spread(lambda rows: values[rows], 1, scored, torch.zeros(1, 3, dtype=torch.int64), "sample")
        tensor([[1.4142, 1.4142, 1.0000]])
    """
    chunks = list(batch_chunks(scored.shape[0], scored.shape[1] * width))
    sums = torch.cat([values(rows).sum(-1) for rows in chunks])[scored]
    group_of_row = torch.zeros_like(samples[scored]) if scope == "batch" else samples[scored]
    groups, group_of_row = torch.unique(group_of_row, return_inverse=True)
    entries = torch.bincount(group_of_row, minlength=len(groups)).to(sums.dtype) * width

    def per_group(row_sums: Tensor) -> Tensor:
        return sums.new_zeros(len(groups)).index_add(0, group_of_row, row_sums)

    means = sums.new_zeros(scored.shape)
    means[scored] = (per_group(sums) / entries)[group_of_row]
    squares = torch.cat([(values(rows) - means[rows, :, None]).square_().sum(-1) for rows in chunks])[scored]
    std = (per_group(squares) / (entries - 1).clamp_min(1)).sqrt()
    found = sums.new_ones(scored.shape)
    found[scored] = std.where(std > 0, torch.ones_like(std))[group_of_row]
    return found


def batch_chunks(rows: int, numbers_in_a_row: int) -> Iterator[slice]:
    """Yield the rows of a batch, a few at a time.

    Args:
        rows: how many there are.
        numbers_in_a_row: how many numbers belong to each.
    """
    step = max(1, CHUNK // max(1, numbers_in_a_row))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
