"""`DSKDOutput`: what one call of the loss returns, its terms by the names that weights have, and the mass kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch.utils import _pytree as pytree

from dskd_components.components.terms import OF_STUDENT, Tally
from dskd_components.errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dskd_components.engines.aligned_batch import AlignedBatch
    from dskd_components.engines.reduction import LossWeights
    from dskd_components.models.states import LMStates, Side


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


def require_known_terms(weights: LossWeights, terms: Mapping[str, Tensor]) -> None:
    """Refuse weights for terms that there are not.

    Args:
        weights: of the loss.
        terms: the terms' values, by name.

    Raises:
        ConfigurationError: there is no such term; the message names those that there are.
    """
    known = [name for name in terms if name not in OF_STUDENT]
    for name in weights.by_term:
        if name not in known:
            raise ConfigurationError(
                f"weights[{name!r}]: this spec has no such term{did_you_mean(name, known)}; its spaces and its aligner "
                f"have {', '.join(known)}."
            )


KEPT_MASS_ROWS: Final = 256
"""Of how many positions the whole head's logits are looked at together."""


def kept_masses(batch: AlignedBatch) -> dict[str, Tally]:
    """Return the probability of the tokens that heads are narrowed to, over the scored positions of each side.

    It takes the whole head, so it is looked at where no gradient is asked for, as in evaluations, and not in training.

    Args:
        batch: what was measured.
    """
    if torch.is_grad_enabled():
        return {}
    sides: tuple[tuple[Side, LMStates], ...] = (("student", batch.student), ("teacher", batch.teacher))
    found = {}
    for side, states in sides:
        if states.head.subset is not None:
            rows = batch.positions.scored[side].rows_of(states.hidden_states)
            masses = [states.head.kept_mass(some).sum() for some in rows.split(KEPT_MASS_ROWS)]
            count = states.scored.sum()
            found[f"{side}_kept_mass"] = Tally(torch.stack([rows.new_zeros(()), *masses]).sum(), count)
    return found
