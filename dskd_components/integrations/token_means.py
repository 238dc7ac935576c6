"""Means over the scored tokens of many batches, for logs and evaluations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from dskd_components.output import DSKDOutput


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
