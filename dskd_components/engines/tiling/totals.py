"""`Totals`: what the terms and metrics of a side come to, tile by tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.space import SpaceResult
    from dskd_components.components.terms import Tally, TokenTerm
    from dskd_components.reduction import Kept, Reduction


class Totals:
    """Values and counts of terms, and tallies of metrics, summed over the tiles so far.

    Args:
        reduction: how token values become terms.
    """

    def __init__(self, reduction: Reduction) -> None:
        self._reduction = reduction
        self.values: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        self.metrics: dict[str, Tally] = {}

    def add(self, name: str, term: TokenTerm, kept: Kept) -> Tensor:
        """Add a tile's part of a term, and return it: a scalar, part of the graph.

        Args:
            name: of the term.
            term: the tile's rows.
            kept: how many rows of the whole batch count.
        """
        tally = kept.tally(term)
        part = self._reduction.reduced(tally.total, term.denominator, kept.count)
        self.values[name] = self.values[name] + part.detach() if name in self.values else part.detach()
        self.counts[name] = self.counts[name] + tally.count if name in self.counts else tally.count
        return part

    def add_metrics(self, found: SpaceResult) -> None:
        """Add a tile's tallies."""
        for name, tally in found.metrics.items():
            self.metrics[name] = self.metrics[name] + tally if name in self.metrics else tally
