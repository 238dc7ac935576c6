"""From token values to the loss: sums and counts first, the one division last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from dskd_components.contracts.terms import Tally
from dskd_components.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dskd_components.contracts.terms import TokenTerm


@dataclass(frozen=True, eq=False)
class Reduction:
    """How the terms of one batch are reduced.

    Args:
        kind: ``"mean"`` or ``"sum"``.
        scored: scalar, integer: the scored student tokens of this batch.
        num_items: scalar: what a mean divides by. Over micro-batches and ranks it is the same number, the scored
            student tokens of all of them, so that their gradients add up to the gradient of the whole.
    """

    kind: Literal["mean", "sum"]
    scored: Tensor
    num_items: Tensor

    @classmethod
    def of(cls, kind: Literal["mean", "sum"], scored: Tensor, num_items_in_batch: Tensor | float | None) -> Reduction:
        """Return the reduction of a batch.

        Args:
            kind: ``"mean"`` or ``"sum"``.
            scored: scalar, integer: the scored student tokens of this batch.
            num_items_in_batch: the caller's denominator, or None for ``scored``.

        Raises:
            InputError: a denominator is given for a sum, or is not a single non-negative number.
        """
        if num_items_in_batch is None:
            return cls(kind, scored, scored)
        if kind == "sum":
            raise InputError(
                'num_items_in_batch: the spec has reduction="sum", which divides by nothing. Leave it out, or use '
                'reduction="mean".'
            )
        num_items = torch.as_tensor(num_items_in_batch, device=scored.device)
        if num_items.numel() != 1 or not num_items.isfinite().all() or (num_items < 0).any():
            raise InputError(
                "num_items_in_batch: expected the number of scored student tokens of all micro-batches and ranks, got "
                f"{num_items_in_batch!r}."
            )
        return cls(kind, scored, num_items.reshape(()))

    def value(self, term: TokenTerm) -> tuple[Tensor, Tensor]:
        """Return a term's value, part of the graph, and the number of tokens that count in it."""
        tally = _sum_of_kept(term)
        if self.kind == "sum":
            return tally.total, tally.count
        # Nothing scored anywhere leaves 0 / 1: a zero that keeps its graph.
        mean = tally.total / self.num_items.clamp_min(1)
        if term.denominator == "kept":
            mean = tally.mean() * (self.scored / self.num_items.clamp_min(1))
        return mean, tally.count

    def values(self, terms: Mapping[str, TokenTerm]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the values of all terms and the numbers of tokens that count in them, by name."""
        pairs = {name: self.value(term) for name, term in terms.items()}
        return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}


def _sum_of_kept(term: TokenTerm) -> Tally:
    everything = torch.ones_like(term.values, dtype=torch.bool)
    eligible = everything if term.eligible is None else term.eligible
    keep = eligible if term.keep is None else term.keep & eligible
    if term.widen_above is not None:
        # Compared strictly, and in float64: at the threshold itself the filter still holds.
        share = keep.sum().double() / eligible.sum().clamp_min(1)
        keep = eligible & (keep | (share > term.widen_above))
    return Tally(term.values.where(keep, 0.0).sum(), keep.sum())
