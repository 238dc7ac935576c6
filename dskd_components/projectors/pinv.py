"""Projector that starts at the pseudo-inverse solution of DSKD v2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import torch
from pydantic import Field

from dskd_components.components.projector import Affine, Projection, Projector, ProjectorHeads
from dskd_components.projectors.linear import Linear, LinearProjection
from dskd_components.projectors.pseudo_inverse import (
    CrossProducts,
    SharedRows,
    gram_matrix,
    inverse_root,
    logit_map,
    lost_share,
    shared_tokens,
)

if TYPE_CHECKING:
    from torch.nn import Parameter


ENOUGH: Final = 4
"""How many shared tokens, as a multiple of the target's width, make a map that holds for the others too. With as many
tokens as it has columns, a least-squares map fits their logits exactly and makes anything of all others: from
Gemma-3-270M to SmolLM2-135M (width 576; a uniform guess is 10.8 nats), ``t2s_ce_covered`` starts at 43.0 with 600
tokens, at 10.5 with 1,000, 7.4 with 2,000, 6.6 with 5,000, 6.4 with 20,000."""


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
        gram = gram_matrix(rows)
        products = CrossProducts.of(rows, torch.float64, gram.device, with_square=True)
        initial = logit_map(products, inverse_root(gram, rtol=rtol), rows.ratio)
        if bias is False:
            initial = Affine(initial.weight, None)
        super().__init__(*rows.sizes, bias=bias or initial.bias is not None)
        self.residual = lost_share(rows, initial, gram, products)
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
    uses_shared_tokens: ClassVar[bool] = True

    name: Literal["pinv"] = "pinv"
    bias: bool | None = None
    """Whether the map has a bias; None: where one of the heads has one, and where there is no such map. It starts at
    what best keeps the logits."""
    rtol: Annotated[float, Field(ge=1e-7, lt=1)] = 1e-6
    """Singular values of the target's head up to this share of the largest count as zero."""
    otherwise: Literal["error", "linear"] = "error"
    """What is built where there is no such map: ``error``, nothing, and the message says why; ``linear``, a calibrated
    `Linear`. There is none if the heads are not given, or share no token that both can predict. With ``linear``, fewer
    shared tokens than four times the target's width count as none: see `ENOUGH`."""

    @property
    def needs_heads(self) -> bool:  # type: ignore[override]  # whether a spec needs them depends on an option
        """Whether there is nothing else to build."""
        return self.otherwise == "error"

    def build(self, *, source_size: int, target_size: int, heads: ProjectorHeads | None) -> Projection:
        """Return the module, initialised from the heads.

        Raises:
            ConfigurationError: the heads are not given, with ``otherwise="error"``.
            InputError: a head holds NaN or infinity; or the heads share no token, with ``otherwise="error"``.
        """
        if self.otherwise == "linear" and not (heads is not None and _determine_a_map(heads)):
            linear = Linear(bias=self.bias is not False)
            return linear.build(source_size=source_size, target_size=target_size, heads=heads)
        return PinvProjection(self.required(heads), rtol=self.rtol, bias=self.bias)


def _determine_a_map(heads: ProjectorHeads) -> bool:
    """Return whether two heads share enough tokens."""
    return shared_tokens(heads) >= ENOUGH * heads.target.hidden_size
