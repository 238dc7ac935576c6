"""`Distribution`: next-token distributions, a row each, as logarithms and as probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Distribution:
    """Rows of normalised log-probabilities, with their exponentials computed once for all who ask.

    Args:
        log_probs: ``[N, V]``, float32 or float64, normalised.
        complete: whether every token has a positive probability before rounding, so that no entry is ``-inf`` and
            nobody need look for one. False is always safe.

    Examples:
        >>> import torch
        >>> Distribution(log_probs=torch.tensor([[0.25, 0.75]]).log()).probs
        tensor([[0.2500, 0.7500]])
    """

    log_probs: Tensor
    complete: bool = False

    @cached_property
    def probs(self) -> Tensor:
        """``[N, V]``: the probabilities."""
        return self.log_probs.exp()
