"""The pseudo-inverse that lets logits survive a projection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dskd_components.components.projector import Affine

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.projectors.shared_rows import SharedRows


@torch.no_grad()
def inverse_root(rows: SharedRows, *, rtol: float) -> Tensor:
    """Return ``B`` with ``pinv(W) = B (W B)^T``, where ``W`` are the target's shared rows.

    It is ``V / s`` of the singular value decomposition ``W = U diag(s) V^T``, from the eigenvectors of ``W^T W``,
    summed in float64. Directions of the hidden space in which the head does nothing (a rank-deficient head) are left
    out, so the result is finite for every head. Of the size of the hidden states alone, it stands in for a
    pseudo-inverse that would be as large as the head.

    Args:
        rows: the tokens that both heads have.
        rtol: singular values up to ``rtol`` times the largest count as zero, as in `torch.linalg.pinv`; 1e-7 or more,
            since less is lost in the squares.

    Returns:
        ``[d_target, rank]``, float64.

    Raises:
        InputError: an entry of a head is not finite.

    Examples:
        >>> from dskd_components import Head, ProjectorHeads
        >>> from dskd_components.projectors.shared_rows import SharedRows
        >>> head = Head(torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
        >>> B = inverse_root(SharedRows(ProjectorHeads(source=head, target=head)), rtol=1e-6)
        >>> B @ (head.weight.double() @ B).T
        tensor([[1.0000, 0.0000, 0.0000],
                [0.0000, 0.5000, 0.0000]], dtype=torch.float64)
    """
    rows.require_finite()
    gram: Tensor | None = None
    for part in rows.parts(torch.float64):
        weight = rows.target(part, torch.float64).weight
        gram = weight.T @ weight if gram is None else gram.addmm_(weight.T, weight)
        del weight  # before the next part is widened
    assert gram is not None, "there is at least one shared token"
    squares, directions = torch.linalg.eigh(gram)
    # eigh returns squared singular values, with rounding of either sign around zero.
    kept = squares > rtol**2 * squares.max().clamp_min(torch.finfo(torch.float64).tiny)
    root: Tensor = directions[:, kept] / squares[kept].sqrt()
    return root


@torch.no_grad()
def logit_map(rows: SharedRows, root: Tensor, dtype: torch.dtype) -> Affine:
    """Return the affine map under which the target's head best gives the logits of the source's, before any softcap.

    For heads ``s (h W^T + b)`` it is ``P = r pinv(W_target) W_source`` and ``c = pinv(W_target) (r b_source -
    b_target)`` with ``r = s_source / s_target``, over the shared tokens.

    Args:
        rows: the tokens that both heads have.
        root: ``[d_target, rank]``: what `inverse_root` returns.
        dtype: what is computed in.

    Returns:
        ``[d_target, d_source]`` and ``[d_target]``, without graph; no bias if neither head has one.
    """
    source_size, target_size = rows.sizes
    root = root.to(dtype)
    products = root.new_zeros(target_size, source_size)
    offset = root.new_zeros(target_size) if rows.have_bias else None
    for part in rows.parts(dtype):
        source, target = rows.source(part, dtype), rows.target(part, dtype)
        products.addmm_(target.weight.T, source.weight)
        if offset is not None and source.bias is not None:
            offset.addmv_(target.weight.T, source.bias, alpha=rows.ratio)
        if offset is not None and target.bias is not None:
            offset.addmv_(target.weight.T, target.bias, alpha=-1.0)
        del source, target
    # From right to left, each step loses no more than rounding times the condition of W; with the inverse of W^T W in
    # this precision it would be the condition's square.
    weight = torch.mm(root, root.T @ products, out=products).mul_(rows.ratio)
    return Affine(weight, None if offset is None else root @ (root.T @ offset))


@torch.no_grad()
def lost_share(rows: SharedRows, affine: Affine) -> float:
    """Return the share of the source's logits that a map loses, ``|lost| / |logits|`` in the Frobenius norm.

    Args:
        rows: the tokens that both heads have.
        affine: the map, float64. Without a bias, those of the heads are lost.
    """
    lost = logits = 0.0
    for part in rows.parts(torch.float64):
        source, target = rows.source(part, torch.float64), rows.target(part, torch.float64)
        wanted = rows.ratio * source.weight
        logits += float(wanted.square().sum())
        lost += float((target.weight @ affine.weight).sub_(wanted).square_().sum())
        if rows.have_bias:
            nothing = wanted.new_zeros(len(wanted))
            shift = nothing if source.bias is None else rows.ratio * source.bias
            found = nothing if affine.bias is None else target.weight @ affine.bias
            found = found if target.bias is None else found + target.bias
            logits += float(shift.square().sum())
            lost += float((found - shift).square().sum())
        del source, target, wanted
    return float((lost / max(logits, 1e-300)) ** 0.5)
