"""Projector that starts at the pseudo-inverse solution of DSKD v2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field

from dskd_components.components.projector import Affine, Projection, Projector, ProjectorHeads
from dskd_components.projectors.linear import LinearProjection
from dskd_components.projectors.pseudo_inverse import SharedRows, inverse_root, logit_map, lost_share

if TYPE_CHECKING:
    from torch.nn import Parameter


class PinvProjection(LinearProjection):
    """A linear projection that starts as the map which best keeps the logits of the shared tokens.

    Args:
        heads: the heads at both ends.
        rtol: singular values of the target's head up to this share of the largest count as zero.
        bias: whether there is a bias; None: where one of the heads has one. It starts at what best keeps the logits, 0
            between heads without.

    Attributes:
        residual: the share of the logits, before any softcap, that the initial map loses, ``|lost| / |logits|`` in the
            Frobenius norm of weights and biases over the shared tokens: 0 keeps them all, 1 none.
    """

    weight: Parameter

    def __init__(self, heads: ProjectorHeads, *, rtol: float, bias: bool | None) -> None:
        rows = SharedRows(heads)
        initial = logit_map(rows, inverse_root(rows, rtol=rtol), torch.float64)
        if bias is False:
            initial = Affine(initial.weight, None)
        super().__init__(*rows.sizes, bias=bias or initial.bias is not None)
        self.residual = lost_share(rows, initial)
        with torch.no_grad():
            self.weight.copy_(initial.weight)
            if self.bias is not None:
                self.bias.zero_() if initial.bias is None else self.bias.copy_(initial.bias)

    def extra_repr(self) -> str:
        """Return widths and residual, for printing."""
        return f"{super().extra_repr()}, residual={self.residual:.3g}"


class Pinv(Projector):
    """Affine map that starts as ``W_source^T pinv(W_target^T)`` over the tokens that both vocabularies have.

    So the target's head reads from a projected state nearly the logits that the source's head gives, before any
    training; scales and biases of the heads are taken into account. It is trained from there on.

    Examples:
        >>> import torch
        >>> from dskd_components import Head
        >>> heads = ProjectorHeads(source=Head(torch.randn(50, 8)), target=Head(torch.randn(50, 8)))
        >>> projection = Pinv().build(source_size=8, target_size=8, heads=heads)
        >>> 0 < projection.residual < 1
        True
    """

    source: ClassVar[str] = "Zhang et al. 2025 (DSKD v2), arXiv 2504.11426, initialisation of the projectors"
    needs_heads: ClassVar[bool] = True

    name: Literal["pinv"] = "pinv"
    bias: bool | None = None
    """Whether the map has a bias; None: where one of the heads has one. It starts at what best keeps the logits."""
    rtol: Annotated[float, Field(ge=1e-7, lt=1)] = 1e-6
    """Singular values of the target's head up to this share of the largest count as zero."""

    def build(self, *, source_size: int, target_size: int, heads: ProjectorHeads | None) -> Projection:  # noqa: ARG002
        """Return the module, initialised from the heads."""
        return PinvProjection(self.required(heads), rtol=self.rtol, bias=self.bias)
