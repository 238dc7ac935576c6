"""The pseudo-inverse that lets logits survive a projection."""

from __future__ import annotations

import torch
from torch import Tensor

from dskd_components.errors import InputError


@torch.no_grad()
def pseudo_inverse(head_weight: Tensor, *, rtol: float) -> Tensor:
    """Return the transpose of ``pinv(W^T)``, computed in float64 through the eigenvectors of ``W^T W``.

    Directions of the hidden space in which the head does nothing (a rank-deficient head) are left out, so the result
    is finite for every head.

    Args:
        head_weight: ``[K, d]``, any floating-point dtype.
        rtol: singular values below ``rtol`` times the largest count as zero.

    Returns:
        ``[d, K]``, float64: the least-squares map from logits back to hidden states.

    Raises:
        InputError: there is no row, or an entry is not finite.

    Examples:
        >>> W = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
        >>> pseudo_inverse(W, rtol=1e-6)
        tensor([[1.0000, 0.0000, 0.0000],
                [0.0000, 0.5000, 0.0000]], dtype=torch.float64)
    """
    if len(head_weight) == 0:
        raise InputError(
            "The two vocabularies share no token, so a pseudo-inverse between their heads cannot be formed. Use the "
            "projector 'linear' or 'mlp', or pass teacher_to_student_ids that map at least one token."
        )
    weight = head_weight.double()
    if not weight.isfinite().all():
        raise InputError("A head holds NaN or infinity, so its pseudo-inverse cannot be formed.")
    squares, directions = torch.linalg.eigh(weight.T @ weight)
    # eigh returns squared singular values, with rounding of either sign around zero.
    kept = squares > rtol**2 * squares.max().clamp_min(torch.finfo(torch.float64).tiny)
    inverse_squares = torch.where(kept, 1.0 / squares.where(kept, torch.ones_like(squares)), 0.0)
    inverse: Tensor = (directions * inverse_squares) @ directions.T @ weight.T
    return inverse
