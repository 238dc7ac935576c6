"""Cross entropy of single tokens, without the divisions and the special cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def token_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy of each row, in nats; 0 where the target is -100.

    Args:
        logits: ``[N, V]``, float32 or float64; entries of ``-inf`` are tokens that cannot occur.
        targets: ``[N]``, int64.

    Returns:
        ``[N]``, same dtype as the logits.

    Examples:
        >>> import torch
        >>> token_cross_entropy(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([1, -100]))
        tensor([0.6931, 0.0000])
    """
    return F.cross_entropy(logits, targets, reduction="none", ignore_index=-100)
