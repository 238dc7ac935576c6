"""The operations from which the built-in distances and their gradients are made, safe at probability zero.

Both keep values and gradients finite where an entry is ``-inf`` on both sides (padded vocabulary), where a naive
``p * (log p - log q)`` is ``0 * nan``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.distribution import Distribution


def relative_entropy(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return ``KL(p || q) = sum p (log p - log q)`` of each row, in nats.

    Args:
        log_p: ``[..., V]``, normalised log-probabilities, ``-inf`` allowed.
        log_q: ``[..., V]``, log-probabilities of the same shape.

    Returns:
        ``[...]``, non-negative; infinite where q rules out what p allows.

    Examples:
        >>> import torch
        >>> relative_entropy(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())
        tensor(0.1438)
    """
    log_ratio = (log_p - log_q).masked_fill(log_p == -math.inf, 0.0)
    return without_negative_rounding((log_p.exp() * log_ratio).sum(-1))


def relative_entropy_and_gradients(
    p: Distribution, q: Distribution, *, p_gradient: bool, q_gradient: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return ``KL(p || q)`` of each row, and the gradients that are wanted, with respect to logits.

    Args:
        p: ``[N, V]``.
        q: ``[N, V]``.
        p_gradient: whether that of p is wanted.
        q_gradient: whether that of q is.

    Returns:
        ``[N]``, in nats, and ``[N, V]`` each or None.
    """
    ratio = p.log_ratio(q)
    mean = expectation(p.probs, ratio, out=None if p_gradient else ratio)
    of_p = through_log_softmax(p.probs, ratio, out=ratio, mean=mean) if p_gradient else None
    of_q = torch.sub(q.probs, p.probs, out=None if p_gradient else ratio) if q_gradient else None
    return without_negative_rounding(mean), of_p, of_q


def part_of_relative_entropy(
    p: Distribution, q: Distribution, *, p_derivative: bool, q_derivative: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return what some tokens add to ``KL(p || q)``, and its derivatives with respect to their log-probabilities.

    Args:
        p: ``[N, W]``, a part of the vocabulary.
        q: ``[N, W]``.
        p_derivative: whether the derivative with respect to log p is wanted.
        q_derivative: whether that with respect to log q is.

    Returns:
        Values ``[N]``, nats, of either sign; the derivatives ``[N, W]``, each None where not wanted.

    Examples:
        >>> import torch
        >>> from dskd_components.components import Distribution
        >>> p, q = (Distribution(log_probs=torch.tensor([side]).log()) for side in ([0.5, 0.25], [0.25, 0.25]))
        >>> part_of_relative_entropy(p, q, p_derivative=False, q_derivative=True)
        (tensor([0.3466]), None, tensor([[-0.5000, -0.2500]]))
    """
    ratio = p.log_ratio(q)
    values = expectation(p.probs, ratio)
    of_p = ratio.add_(1).mul_(p.probs) if p_derivative else None
    return values, of_p, p.probs.neg() if q_derivative else None


def log_mixture(log_p: Tensor, log_q: Tensor, weight: float) -> Tensor:
    """Return ``log(weight * p + (1 - weight) * q)``.

    Args:
        log_p: ``[..., V]``, log-probabilities, ``-inf`` allowed.
        log_q: ``[..., V]``, log-probabilities of the same shape.
        weight: the share of p, strictly between 0 and 1.

    Returns:
        ``[..., V]``; ``-inf`` where both are.

    Examples:
        >>> import torch
        >>> log_mixture(torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0]).log(), 0.5).exp()
        tensor([0.7500, 0.2500])
    """
    # logaddexp(-inf, -inf) has a NaN gradient, so entries absent on both sides take a detour through 0.
    absent = (log_p == -math.inf) & (log_q == -math.inf)
    log_p = log_p.masked_fill(absent, 0.0) + math.log(weight)
    log_q = log_q.masked_fill(absent, 0.0) + math.log1p(-weight)
    return log_p.logaddexp(log_q).masked_fill(absent, -math.inf)


def without_negative_rounding(divergence: Tensor) -> Tensor:
    """Lift values that rounding has put just below zero to zero, and leave the gradient as it is.

    Args:
        divergence: ``[...]``, non-negative but for rounding.
    """
    return divergence - divergence.clamp_max(0.0).detach()


def log_ratio_to_mixture(p: Distribution, log_mixture: Tensor) -> Tensor:
    """Return ``log p - log m`` for a mixture that p has a share in, and 0 where p rules a token out.

    Args:
        p: ``[N, V]``.
        log_mixture: ``[N, V]``, as `log_of_mixture` gives it.
    """
    ratio = p.log_probs - log_mixture
    return ratio if p.all_finite else ratio.masked_fill_(p.log_probs == -math.inf, 0.0)


def log_of_mixture(mixture: Tensor) -> Tensor:
    """Return the logarithm of probabilities, finite where they have underflowed.

    There the logarithm is wrong, but whoever has a share in the mixture weighs it with 0.

    Args:
        mixture: ``[N, V]``, overwritten.
    """
    return mixture.clamp_min_(torch.finfo(mixture.dtype).tiny).log_()


def expectation(probs: Tensor, values: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return ``sum p x`` of each row.

    Args:
        probs: ``[N, V]``.
        values: ``[N, V]``, finite.
        out: ``[N, V]``, for the products ``p x``; may be the values themselves. To write over what is not needed any
            more takes less time than new memory, and less memory.

    Examples:
        >>> expectation(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 3.0]]))
        tensor([2.])
    """
    return torch.mul(probs, values, out=out).sum(-1)


def through_log_softmax(
    probs: Tensor, derivative: Tensor, *, out: Tensor | None = None, mean: Tensor | None = None
) -> Tensor:
    """Turn derivatives with respect to probabilities into derivatives with respect to logits: ``p (x - sum p x)``.

    Derivatives with respect to log-probabilities are ``p x`` here: divide them by p, or leave p out.

    Args:
        probs: ``[N, V]``, what the logits' softmax is.
        derivative: ``[N, V]``, finite; the derivative x with respect to each probability. A constant added to a row
            changes nothing.
        out: ``[N, V]``, for the result; may be the derivative itself.
        mean: ``[N]``: the `expectation` of the derivative, where it is known already.

    Returns:
        ``[N, V]``: ``out``, or else a new tensor.

    Examples:
        >>> through_log_softmax(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 3.0]]))
        tensor([[-0.5000,  0.5000]])
    """
    mean = expectation(probs, derivative) if mean is None else mean
    return torch.sub(derivative, mean[:, None], out=out).mul_(probs)
