"""Means over tokens for a trainer's log, and samples that a sampler repeats to fill a last batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dskd_components.loss.output import DSKDOutput


class TokenMeans:
    """Adds up what batches gave, and divides once by the scored student tokens of all of them.

    So batches of many tokens count for more, as they do in the loss. Nothing is read from the device before `take`.

    Examples:
        >>> import torch
        >>> from dskd_components import DSKDOutput
        >>> def output(loss):
        ...     return DSKDOutput(loss=torch.tensor(loss), terms={}, counts={}, metrics={})
        >>> means = TokenMeans()
        >>> means.add(output(1.0), scored=torch.tensor(30), divided_by=torch.tensor(30))
        >>> means.add(output(5.0), scored=torch.tensor(10), divided_by=torch.tensor(10))
        >>> means.take()
        {'loss': 2.0}
    """

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}
        self._scored: Tensor | None = None

    def add(self, output: DSKDOutput, *, scored: Tensor, divided_by: Tensor | float) -> None:
        """Add what one batch gave.

        Args:
            output: of the loss.
            scored: scalar: the scored student tokens of the batch.
            divided_by: scalar: what loss and terms have been divided by; 1 for ``reduction="sum"``.
        """
        scored = scored.to(output.loss.device)
        values = {"loss": output.loss.detach() * divided_by}
        values |= {name: value * divided_by for name, value in output.terms.items()}
        values |= {name: value * scored for name, value in output.metrics.items()}
        for name, value in values.items():
            self._totals[name] = self._totals.get(name, 0.0) + value
        self._scored = scored if self._scored is None else self._scored + scored

    def take(self, sum_over_ranks: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """Return all means, by name, and begin anew; zeros if nothing was scored, nothing if nothing was added.

        Args:
            sum_over_ranks: adds up a row of numbers over the ranks, all of which call `take`; None: there is one.
        """
        if self._scored is None:
            return {}
        names = sorted(self._totals)
        row = torch.stack([*(self._totals[name].float().reshape(()) for name in names), self._scored.float()])
        if sum_over_ranks is not None:
            row = sum_over_ranks(row)
        *totals, scored = row.tolist()
        self._totals, self._scored = {}, None
        return {name: total / max(scored, 1.0) for name, total in zip(names, totals, strict=True)}


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
