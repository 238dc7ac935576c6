"""Means over tokens for a trainer's log, and samples that a sampler repeats to fill a last batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from accelerate import Accelerator

    from dskd_components.loss.output import DSKDOutput


class TokenMeans:
    """Adds up what batches gave, and divides once: terms by all scored student tokens, metrics by their own tokens.

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
        self._tokens: dict[str, Tensor] = {}

    def add(self, output: DSKDOutput, *, scored: Tensor, divided_by: Tensor | float, repeated: bool = False) -> None:
        """Add what one batch gave.

        Args:
            output: of the loss.
            scored: scalar: the scored student tokens of the batch.
            divided_by: scalar: what loss and terms have been divided by; 1 for ``reduction="sum"``.
            repeated: whether other ranks have all of the batch, so that nothing of it counts but the names.
        """
        scored = scored.to(output.loss.device)
        of_terms = {"loss": output.loss.detach(), **output.terms}
        tokens = dict.fromkeys(of_terms, scored) | {name: output.counts.get(name, scored) for name in output.metrics}
        totals = {name: value * divided_by for name, value in of_terms.items()}
        totals |= {name: value * tokens[name] for name, value in output.metrics.items()}
        for sums, values in ((self._totals, totals), (self._tokens, tokens)):
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value * (not repeated)

    def take(self, sum_over_ranks: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """Return all means, by name, and begin anew; zeros if nothing was scored, nothing if nothing was added.

        Args:
            sum_over_ranks: adds up a row of numbers over the ranks, all of which call `take`; None: there is one.
        """
        if not self._totals:
            return {}
        names = sorted(self._totals)
        sums = [values[name].float().reshape(()) for values in (self._totals, self._tokens) for name in names]
        row = torch.stack(sums)
        if sum_over_ranks is not None:
            row = sum_over_ranks(row)
        totals, tokens = row.reshape(2, len(names)).tolist()
        self._totals, self._tokens = {}, {}
        return {name: total / max(count, 1.0) for name, total, count in zip(names, totals, tokens, strict=True)}


class CountedWindows:
    """Compares what losses were divided by with what was trained on: over a window and all ranks it is the same.

    Nothing is read from the device before `take`.

    Examples:
        >>> import torch
        >>> windows = CountedWindows()
        >>> for scored, last in ((30, False), (10, True)):
        ...     windows.add(torch.tensor(scored), num_items=80, last=last, ranks=1)
        >>> windows.take()
        0.5
    """

    def __init__(self) -> None:
        self._shares: Tensor | float = 0.0
        self._windows: Tensor | float = 0.0

    def add(self, scored: Tensor, *, num_items: Tensor | float, last: bool, ranks: int) -> None:
        """Add one micro-batch.

        Args:
            scored: scalar: the scored student tokens of the micro-batch.
            num_items: scalar: what its loss was divided by.
            last: whether it is the last of its window.
            ranks: over how many ranks `num_items` was counted.
        """
        counted = torch.as_tensor(num_items, device=scored.device).float()
        self._shares = self._shares + scored / counted.clamp_min(1.0)
        self._windows = self._windows + (counted > 0) * (last / ranks)

    def take(self, sum_over_ranks: Callable[[Tensor], Tensor] | None = None) -> float:
        """Return the tokens that were trained on by those that were counted, 1 if all is well, and begin anew.

        Args:
            sum_over_ranks: as in `TokenMeans.take`.
        """
        row = torch.stack([torch.as_tensor(value).reshape(()) for value in (self._shares, self._windows)])
        shares, windows = (row if sum_over_ranks is None else sum_over_ranks(row)).tolist()
        self._shares = self._windows = 0.0
        return float(shares / windows) if windows else 1.0


def without_repeated(batch: dict[str, Tensor], accelerator: Accelerator) -> tuple[dict[str, Tensor], bool]:
    """Return what of a rank's batch no other rank has; or all of it, and that other ranks have all of it, too.

    Then it is to be run all the same, so that every rank has the same terms to add up.

    Args:
        batch: the columns of this rank.
        accelerator: knows whether it is the last one of an evaluation, and how many samples that holds.
    """
    state = accelerator.gradient_state
    # Packed rows hold several samples, so they cannot be told apart.
    can_repeat = accelerator.num_processes > 1 and "student_segment_ids" not in batch
    if not (can_repeat and state.end_of_dataloader and state.remainder > 0):
        return batch, False
    rows = own_rows(batch, rank=accelerator.process_index, remainder=state.remainder)
    return (first_rows(batch, rows), False) if rows else (batch, True)


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
