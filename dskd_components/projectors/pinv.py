"""Projector that starts at the pseudo-inverse solution of DSKD v2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field

from dskd_components.components.projector import Projection, Projector, ProjectorHeads
from dskd_components.projectors.linear import LinearProjection
from dskd_components.projectors.pseudo_inverse import pseudo_inverse

if TYPE_CHECKING:
    from torch.nn import Parameter


class PinvProjection(LinearProjection):
    """A linear projection that starts as the map which best keeps the logits of the shared tokens.

    Args:
        heads: the heads at both ends.
        rtol: singular values of the target's head below this share of the largest count as zero.
        bias: whether there is a bias; it starts at 0.

    Attributes:
        residual: the share of the logits that the initial map loses, ``|P W_target^T - W_source^T| / |W_source^T|``
            in the Frobenius norm over the shared tokens: 0 keeps them all, 1 none.
    """

    weight: Parameter

    def __init__(self, heads: ProjectorHeads, *, rtol: float, bias: bool) -> None:
        source_weight, target_weight = heads.shared_weights()
        super().__init__(source_weight.shape[1], target_weight.shape[1], bias=bias)
        with torch.no_grad():
            initial = pseudo_inverse(target_weight, rtol=rtol) @ source_weight.double()
            lost = target_weight.double() @ initial - source_weight.double()
            self.residual = float(lost.norm() / source_weight.double().norm().clamp_min(1e-300))
            self.weight.copy_(initial)
            if self.bias is not None:
                self.bias.zero_()

    def extra_repr(self) -> str:
        """Return widths and residual, for printing."""
        return f"{super().extra_repr()}, residual={self.residual:.3g}"


class Pinv(Projector):
    """Linear map that starts as ``W_source^T pinv(W_target^T)`` over the tokens that both vocabularies have.

    So the target's head reads from a projected state nearly the logits that the source's head gives, before any
    training. It is trained from there on.

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
    bias: bool = False
    """Whether the map has a bias, which starts at 0."""
    rtol: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    """Singular values of the target's head below this share of the largest count as zero."""

    def build(self, *, source_size: int, target_size: int, heads: ProjectorHeads | None) -> Projection:  # noqa: ARG002
        """Return the module, initialised from the heads."""
        return PinvProjection(self.required(heads), rtol=self.rtol, bias=self.bias)
