"""`DSKDOutput`: what one call of the loss returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class DSKDOutput:
    """The loss and what it is made of.

    Args:
        loss: scalar, nats, part of the graph: call ``loss.backward()``.
        terms: each term's value under the spec's reduction, before its weight, detached, for the log: ``ce``,
            ``t2s_ce``, ``t2s_kd``, ``s2t_kd``, ``kd``, ``aux_loss`` of a student that is a mixture of experts, and
            those of plugins.
        counts: the number of tokens behind each term and each metric. Terms of a sum, and counts, add up over
            micro-batches.
        metrics: further numbers for the log, detached: accuracies and agreements from 0 to 1, entropies in nats. Each
            is a mean over its own count, where terms divide by all scored student tokens; see
            ``docs/reference/terms-and-metrics.md``.
    """

    loss: Tensor
    terms: Mapping[str, Tensor]
    counts: Mapping[str, Tensor]
    metrics: Mapping[str, Tensor]


# Wrappers such as FSDP look for the tensors in what a module returns, to know when its backward pass begins.
pytree.register_pytree_node(
    DSKDOutput,
    lambda output: ([output.loss, output.terms, output.counts, output.metrics], None),
    lambda values, _: DSKDOutput(**dict(zip(("loss", "terms", "counts", "metrics"), values, strict=True))),
)
