"""Pseudo-inverses of heads that are never held whole: the rows that two heads share, read a part at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor

from dskd_components.components.projector import Affine
from dskd_components.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from dskd_components.components.projector import ProjectorHeads
    from dskd_components.models.head import Head


FEWEST_NUMBERS: Final = 2**18
"""Numbers in the copied part of both heads, at least: products with fewer rows take longer."""


class Rows(NamedTuple):
    """Some rows of one head, detached.

    Args:
        weight: ``[n, d]``.
        bias: ``[n]``, or None.
    """

    weight: Tensor
    bias: Tensor | None


class PossibleTokens(NamedTuple):
    """Which of the tokens that two heads share can be predicted by both.

    Args:
        mask: ``[K]``, bool; None: the heads have no bias, so all can.
        kept: int64: where the mask is true. None: everywhere.
    """

    mask: Tensor | None
    kept: Tensor | None

    @classmethod
    def of(cls, heads: ProjectorHeads) -> Self:
        """Look at the biases of two heads.

        Args:
            heads: the heads.
        """
        mask = possible_tokens(heads)
        return cls(mask, None if mask is None or mask.all() else mask.nonzero().squeeze(1))

    def to(self, device: torch.device) -> PossibleTokens:
        """Return the same on a device."""
        return PossibleTokens(*(None if tensor is None else tensor.to(device) for tensor in self))


def possible_tokens(heads: ProjectorHeads) -> Tensor | None:
    """Return ``[K]``, bool: which of the shared tokens can be predicted by both heads; None if there is no bias.

    Args:
        heads: the heads.
    """
    found: Tensor | None = None
    for head, ids in ((heads.source, heads.source_ids), (heads.target, heads.target_ids)):
        if head.bias is not None:
            bias = head.bias.detach()
            possible = (bias[: shared_count(heads)] if ids is None else bias[ids]) != -torch.inf
            found = possible if found is None else found & possible
    return found


def shared_count(heads: ProjectorHeads) -> int:
    """Return how many tokens two heads share, those that one of them rules out included.

    Args:
        heads: the heads.
    """
    if heads.source_ids is None:
        return min(heads.source.token_count, heads.target.token_count)
    return len(heads.source_ids)


class SharedRows:
    """The tokens that two heads share and both can predict, and their rows.

    Rows are gathered and widened a part at a time, so that no copy of a head is ever made.

    Args:
        heads: the heads at both ends of a projection.
        possible: what `possible_tokens` has found of such heads, if it is known.

    Raises:
        InputError: there is no such token.
    """

    def __init__(self, heads: ProjectorHeads, possible: PossibleTokens | None = None) -> None:
        self._source, self._target = heads.source, heads.target
        self._source_ids, self._target_ids = heads.source_ids, heads.target_ids
        kept = (PossibleTokens.of(heads) if possible is None else possible).kept
        if kept is not None:
            self._source_ids = kept if self._source_ids is None else self._source_ids[kept]
            self._target_ids = kept if self._target_ids is None else self._target_ids[kept]
        if len(self) == 0:
            raise InputError(
                "The two vocabularies share no token, so a pseudo-inverse between their heads cannot be formed. Use "
                "the projector 'linear' or 'mlp', or pass teacher_to_student_ids that map at least one token."
            )

    def __len__(self) -> int:
        if self._source_ids is None or self._target_ids is None:
            return min(self._source.token_count, self._target.token_count)
        return len(self._source_ids)

    @property
    def sizes(self) -> tuple[int, int]:
        """Widths of the source and of the target."""
        return self._source.hidden_size, self._target.hidden_size

    @property
    def ratio(self) -> float:
        """The source's scale over the target's."""
        return self._source.scale / self._target.scale

    @property
    def have_bias(self) -> bool:
        """Whether either head has a bias."""
        return self._source.bias is not None or self._target.bias is not None

    def parts(self, dtype: torch.dtype) -> Iterator[slice]:
        """Yield slices of the rows; a part of both heads takes about as much memory as a map between them.

        Args:
            dtype: what the rows will be read in.
        """
        step = len(self)
        heads = (self._source, self._target)
        is_cut = any(head.shards is not None for head in heads)
        is_copied = is_cut or self._source_ids is not None or {head.dtype for head in heads} != {dtype}
        if is_copied:
            source, target = self.sizes
            step = max(1, max(FEWEST_NUMBERS, source * target) // (source + target))
        for start in range(0, len(self), step):
            yield slice(start, min(start + step, len(self)))

    def source(self, part: slice, dtype: torch.dtype) -> Rows:
        """Return rows of the source's head.

        Args:
            part: which of the shared tokens.
            dtype: of the result.
        """
        return _rows(self._source, self._source_ids, part, dtype)

    def target(self, part: slice, dtype: torch.dtype) -> Rows:
        """Return rows of the target's head.

        Args:
            part: which of the shared tokens.
            dtype: of the result.
        """
        return _rows(self._target, self._target_ids, part, dtype)

    def require_finite(self) -> None:
        """Refuse heads that hold NaN or infinity; a bias of ``-inf`` is a token that is left out.

        Raises:
            InputError: the message names the head and the tensor.
        """
        for end, head, ids in (("source", self._source, self._source_ids), ("target", self._target, self._target_ids)):
            for part in self.parts(torch.float64):
                for name, tensor in _rows(head, ids, part, head.dtype)._asdict().items():
                    if tensor is not None and not tensor.isfinite().all():
                        raise InputError(
                            f"The {name} of the {end}'s head holds NaN or infinity, so the pseudo-inverse that a "
                            "projector is made from cannot be formed. Look at the weights of that model."
                        )


def shared_tokens(heads: ProjectorHeads) -> int:
    """Return how many tokens two heads share and both can predict.

    Args:
        heads: the heads at both ends of a projection.
    """
    try:
        return len(SharedRows(heads))
    except InputError:
        return 0


def _rows(head: Head, ids: Tensor | None, part: slice, dtype: torch.dtype) -> Rows:
    picked = part if ids is None else ids[part]
    weight, bias = head.rows(picked)
    return Rows(weight.to(dtype), None if bias is None else bias.to(dtype))


SYMMETRIC_BLOCKS: Final = 8
"""Into how many parts the columns of a head are cut for its Gram matrix, of which one half follows from the other."""


@torch.no_grad()
def gram_matrix(rows: SharedRows) -> Tensor:
    """Return ``W^T W``, where ``W`` are the target's shared rows.

    Args:
        rows: the tokens that both heads have.

    Returns:
        ``[d_target, d_target]``, float64.

    Raises:
        InputError: an entry of a head is not finite.
    """
    rows.require_finite()
    size = rows.sizes[1]
    cuts = torch.arange(size).tensor_split(min(SYMMETRIC_BLOCKS, size))
    blocks = [slice(int(cut[0]), int(cut[-1]) + 1) for cut in cuts]
    gram: Tensor | None = None
    for part in rows.parts(torch.float64):
        weight = rows.target(part, torch.float64).weight
        gram = weight.new_zeros(size, size) if gram is None else gram
        for block in blocks:
            gram[block, block.start :].addmm_(weight[:, block].T, weight[:, block.start :])
        del weight  # before the next part is widened
    assert gram is not None, "there is at least one shared token"
    upper = gram.triu()
    return upper + upper.triu(1).T


@torch.no_grad()
def inverse_root(gram: Tensor, *, rtol: float) -> Tensor:
    """Return ``B`` with ``pinv(W) = B (W B)^T``, from the Gram matrix ``W^T W`` of a head.

    It is ``V / s`` of the singular value decomposition ``W = U diag(s) V^T``, from the eigenvectors of ``W^T W``,
    summed in float64. Directions of the hidden space in which the head does nothing (a rank-deficient head) are left
    out, so the result is finite for every head. Of the size of the hidden states alone, it stands in for a
    pseudo-inverse that would be as large as the head.

    Args:
        gram: ``[d_target, d_target]``: what `gram_matrix` returns.
        rtol: singular values up to ``rtol`` times the largest count as zero, as in `torch.linalg.pinv`; 1e-7 or more,
            since less is lost in the squares.

    Returns:
        ``[d_target, rank]``, float64.

    Examples:
        >>> from dskd_components import Head, ProjectorHeads
        >>> from dskd_components.projectors.pseudo_inverse import SharedRows
        >>> head = Head(torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
        >>> B = inverse_root(gram_matrix(SharedRows(ProjectorHeads(source=head, target=head))), rtol=1e-6)
        >>> B @ (head.weight.double() @ B).T
        tensor([[1.0000, 0.0000, 0.0000],
                [0.0000, 0.5000, 0.0000]], dtype=torch.float64)
    """
    squares, directions = torch.linalg.eigh(gram)
    # eigh returns squared singular values, with rounding of either sign around zero.
    kept = squares > rtol**2 * squares.max().clamp_min(torch.finfo(torch.float64).tiny)
    root: Tensor = directions[:, kept] / squares[kept].sqrt()
    return root


class CrossProducts(NamedTuple):
    """What the logits of two heads have in common, over the tokens that both have.

    Args:
        weight: ``[d_target, d_source]``: ``W_target^T W_source``.
        bias: ``[d_target]``: ``W_target^T (r b_source - b_target)``; None if neither head has a bias.
        source_square: ``|W_source|^2``, if it was asked for.
    """

    weight: Tensor
    bias: Tensor | None
    source_square: float = 0.0

    @classmethod
    @torch.no_grad()
    def of(cls, rows: SharedRows, dtype: torch.dtype, device: torch.device, *, with_square: bool = False) -> Self:
        """Sum over the shared tokens.

        Args:
            rows: the tokens that both heads have.
            dtype: what is computed in.
            device: where the heads are.
            with_square: whether the square of the source's weight is wanted.
        """
        source_size, target_size = rows.sizes
        products = torch.zeros(target_size, source_size, dtype=dtype, device=device)
        offset = products.new_zeros(target_size) if rows.have_bias else None
        square = 0.0
        for part in rows.parts(dtype):
            source, target = rows.source(part, dtype), rows.target(part, dtype)
            products.addmm_(target.weight.T, source.weight)
            if offset is not None and source.bias is not None:
                offset.addmv_(target.weight.T, source.bias, alpha=rows.ratio)
            if offset is not None and target.bias is not None:
                offset.addmv_(target.weight.T, target.bias, alpha=-1.0)
            square += float(source.weight.square().sum()) if with_square else 0.0
            del source, target
        return cls(products, offset, square)


@torch.no_grad()
def logit_map(products: CrossProducts, root: Tensor, ratio: float) -> Affine:
    """Return the affine map under which the target's head best gives the logits of the source's, before any softcap.

    For heads ``s (h W^T + b)`` it is ``P = r pinv(W_target) W_source`` and ``c = pinv(W_target) (r b_source -
    b_target)`` with ``r = s_source / s_target``, over the shared tokens.

    Args:
        products: of the tokens that both heads have.
        root: ``[d_target, rank]``: what `inverse_root` returns, in the precision of the products.
        ratio: r.

    Returns:
        ``[d_target, d_source]`` and ``[d_target]``, without graph; no bias if neither head has one.
    """
    # From right to left, each step loses no more than rounding times the condition of W; with the inverse of W^T W in
    # this precision it would be the condition's square.
    weight = (root @ (root.T @ products.weight)).mul_(ratio)
    return Affine(weight, None if products.bias is None else root @ (root.T @ products.bias))


@torch.no_grad()
def lost_share(rows: SharedRows, affine: Affine, gram: Tensor, products: CrossProducts) -> float:
    """Return the share of the source's logits that a map loses, ``|lost| / |logits|`` in the Frobenius norm.

    Of the weights it follows from sums that are there, ``|r S - W P|^2 = r^2 |S|^2 - 2 r <P, W^T S> + <P, W^T W P>``,
    whose rounding in float64 is below 1e-7 of the logits; of the biases it is summed over the tokens.

    Args:
        rows: the tokens that both heads have.
        affine: the map, float64. Without a bias, those of the heads are lost.
        gram: what `gram_matrix` returns.
        products: their cross products, float64, with the square of the source's weight.
    """
    ratio, matrix = rows.ratio, affine.weight
    logits = ratio**2 * products.source_square
    common = float((matrix * products.weight).sum())
    lost = max(0.0, logits - 2 * ratio * common + float((matrix * (gram @ matrix)).sum()))
    if rows.have_bias:
        for part in rows.parts(torch.float64):
            source, target = rows.source(part, torch.float64), rows.target(part, torch.float64)
            nothing = matrix.new_zeros(len(target.weight))
            shift = nothing if source.bias is None else ratio * source.bias
            found = nothing if affine.bias is None else target.weight @ affine.bias
            found = found if target.bias is None else found + target.bias
            logits += float(shift.square().sum())
            lost += float((found - shift).square().sum())
            del source, target
    return float((lost / max(logits, 1e-300)) ** 0.5)
