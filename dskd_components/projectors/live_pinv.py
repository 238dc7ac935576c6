"""Parameter-free projector that follows the student's head."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from dskd_components.components.projector import Affine, Projection, Projector, ProjectorHeads
from dskd_components.errors import InputError
from dskd_components.models.precision import full_precision
from dskd_components.projectors.pseudo_inverse import pseudo_inverse


class LivePinvProjection(Projection):
    """``h W_source^T pinv(W_target^T)``, from the source's head as it is at each call; no parameters.

    The target's pseudo-inverse is computed once, since the teacher's head is frozen. The map carries no gradient to
    the head; hidden states have theirs.

    Args:
        heads: the heads at both ends.
        rtol: singular values of the target's head below this share of the largest count as zero.
    """

    inverse: Tensor

    def __init__(self, heads: ProjectorHeads, *, rtol: float) -> None:
        super().__init__()
        _, target_weight = heads.shared_weights()
        inverse = pseudo_inverse(target_weight, rtol=rtol).to(torch.promote_types(target_weight.dtype, torch.float32))
        # It is a function of the frozen teacher's head, so a checkpoint need not hold it.
        self.register_buffer("inverse", inverse, persistent=False)

    def matrix(self, heads: ProjectorHeads, dtype: torch.dtype) -> Tensor:
        """Return ``[d_source, d_target]``, detached: the map at this step.

        Raises:
            InputError: the heads share another number of tokens than those that the projection was built for.
        """
        source_weight, _ = heads.shared_weights()
        if len(source_weight) != self.inverse.shape[1]:
            raise InputError(
                f"The projector 'live_pinv' was built for heads that share {self.inverse.shape[1]} tokens, these share "
                f"{len(source_weight)}. Build DSKDLoss with the heads that are used in training."
            )
        return source_weight.detach().T.to(dtype) @ self.inverse.T.to(dtype)

    def affine(self, heads: ProjectorHeads) -> Affine:
        """Return the map at this step, which has no bias."""
        return Affine(self.matrix(heads, full_precision(self.inverse.dtype)).T, None)

    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        """Return ``[..., d_target]``."""
        return hidden_states @ self.matrix(heads, hidden_states.dtype)


class LivePinv(Projector):
    """The map ``W_source^T pinv(W_target^T)``, recomputed from the live source head at each step; no parameters.

    Examples:
        >>> import torch
        >>> from dskd_components import Head
        >>> heads = ProjectorHeads(source=Head(torch.randn(50, 8)), target=Head(torch.randn(50, 12)))
        >>> projection = LivePinv().build(source_size=8, target_size=12, heads=heads)
        >>> projection(torch.randn(3, 8), heads).shape, list(projection.parameters())
        (torch.Size([3, 12]), [])
    """

    source: ClassVar[str] = "Zhang et al. 2025 (DSKD v2), arXiv 2504.11426, student-to-teacher projection"
    needs_heads: ClassVar[bool] = True

    name: Literal["live_pinv"] = "live_pinv"
    rtol: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    """Singular values of the target's head below this share of the largest count as zero."""

    def build(self, *, source_size: int, target_size: int, heads: ProjectorHeads | None) -> Projection:  # noqa: ARG002
        """Return the map, which is made anew from the live head."""
        return LivePinvProjection(self.required(heads), rtol=self.rtol)
