"""The closed form that both skew divergences are: ``KL(p || alpha p + (1 - alpha) q)`` and its gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dskd_components.distances.log_space import (
    expectation,
    log_of_mixture,
    log_ratio_to_mixture,
    through_log_softmax,
    without_negative_rounding,
)

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.distribution import Distribution


def skewed_relative_entropy(
    p: Distribution, q: Distribution, alpha: float, *, p_gradient: bool, q_gradient: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return ``KL(p || m)`` for ``m = alpha p + (1 - alpha) q``, and its gradients with respect to logits.

    Args:
        p: ``[N, V]``.
        q: ``[N, V]``.
        alpha: p's share of the mixture, strictly between 0 and 1.
        p_gradient: whether the gradient with respect to p's logits is wanted.
        q_gradient: likewise for q's.

    Returns:
        Values ``[N]``, nats; the gradients ``[N, V]``, each None where not wanted.
    """
    mixture = torch.lerp(q.probs, p.probs, alpha)
    # The derivatives are log(p / m) - alpha p / m with respect to p, and -(1 - alpha) p / m with respect to q.
    share = p.probs / mixture.clamp_min(torch.finfo(mixture.dtype).tiny)
    ratio = log_ratio_to_mixture(p, log_of_mixture(mixture))
    values = without_negative_rounding(expectation(p.probs, ratio))
    of_p = through_log_softmax(p.probs, ratio.sub_(share, alpha=alpha), out=ratio) if p_gradient else None
    of_q = through_log_softmax(q.probs, share, out=share).mul_(alpha - 1) if q_gradient else None
    return values, of_p, of_q
