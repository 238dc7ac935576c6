"""Terms of the loss, as values of single tokens and as sums with counts. Nothing is divided here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import torch

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

Denominator = Literal["scored", "kept"]
"""What a mean divides by: all scored student tokens, or the tokens that the term itself keeps."""


CROSS_ENTROPY: Final = "ce"
"""The term of the student's own cross entropy."""

AUX_LOSS: Final = "aux_loss"
"""The term of the student's router."""

OF_STUDENT: Final = (CROSS_ENTROPY, AUX_LOSS)
"""The terms that the student has whatever it learns from; a spec's weights are not for them."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenTerm:
    """One term of the loss before any reduction: a value a row, in nats, and which rows count.

    Args:
        values: ``[N]``, nats; part of the graph.
        keep: ``[N]``, bool: the rows that count. None: all.
        eligible: ``[N]``, bool: the rows among which ``keep`` chooses. None: all.
        widen_above: a fraction. When more than this fraction of the eligible rows is kept, all eligible rows count
            instead (the agreement threshold of DSKD v2). None: never.
        denominator: what the term's mean divides by.
        weight: what the term is multiplied with in the loss.
    """

    values: Tensor
    keep: Tensor | None = None
    eligible: Tensor | None = None
    widen_above: float | None = None
    denominator: Denominator = "scored"
    weight: float = 1.0

    @property
    def needs_counts(self) -> bool:
        """Whether what a row is worth depends on how many rows of the whole batch are kept."""
        chooses = self.keep is not None or self.eligible is not None
        return self.widen_above is not None or (self.denominator == "kept" and chooses)


@dataclass(frozen=True, eq=False)
class Tally:
    """A sum and the number of items it runs over, which add up over micro-batches and ranks.

    Args:
        total: scalar.
        count: scalar, integer.
    """

    total: Tensor
    count: Tensor

    def __add__(self, other: Self) -> Self:
        return type(self)(self.total + other.total, self.count + other.count)

    def mean(self) -> Tensor:
        """Return total / count, and 0 where nothing was counted; float32 at least."""
        # Of two integers, torch would make a number of the process's default dtype.
        return self.total.to(torch.promote_types(self.total.dtype, torch.float32)) / self.count.clamp_min(1)
