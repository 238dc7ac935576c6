"""`Measurement`: what an engine finds out about one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dskd_components.components.terms import Tally


@dataclass(frozen=True, eq=False, kw_only=True)
class Measurement:
    """The student's cross entropy and the terms of all spaces, reduced.

    Args:
        loss: scalar, nats, part of the graph: the weighted sum of the terms, as `LossWeights` has it.
        values: each term under the spec's reduction, before its weight, ``ce`` among them unless it is not wanted.
        counts: the number of tokens that count in each term.
        metrics: numbers for the log.
    """

    loss: Tensor
    values: Mapping[str, Tensor]
    counts: Mapping[str, Tensor]
    metrics: Mapping[str, Tally]
