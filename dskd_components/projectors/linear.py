"""Affine projector."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from torch import nn
from torch.nn import functional as F

from dskd_components.components.projector import Affine, Projection, Projector, ProjectorHeads

if TYPE_CHECKING:
    from torch import Tensor


class LinearProjection(Projection):
    """``h W^T + b``, computed in the precision of the hidden states.

    Its parameters are ``weight`` ``[d_target, d_source]`` and ``bias`` ``[d_target]``.

    Args:
        source_size: width that comes in.
        target_size: width that goes out.
        bias: whether there is a bias.
    """

    def __init__(self, source_size: int, target_size: int, *, bias: bool = True) -> None:
        super().__init__()
        initial = nn.Linear(source_size, target_size, bias=bias)
        self.weight = initial.weight
        self.bias = initial.bias if bias else None

    def forward(self, hidden_states: Tensor, heads: ProjectorHeads | None = None) -> Tensor:  # noqa: ARG002
        """Return ``[..., d_target]``."""
        bias = None if self.bias is None else self.bias.to(hidden_states.dtype)
        return F.linear(hidden_states, self.weight.to(hidden_states.dtype), bias)

    def affine(self, heads: ProjectorHeads | None = None) -> Affine:  # noqa: ARG002
        """Return weight and bias."""
        return Affine(self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the widths, for printing."""
        return f"{self.weight.shape[1]} -> {self.weight.shape[0]}, bias={self.bias is not None}"


class Linear(Projector):
    """Affine map, initialised as `torch.nn.Linear` is.

    Examples:
        >>> Linear().build(source_size=24, target_size=16, heads=None)
        LinearProjection(24 -> 16, bias=True)
    """

    source: ClassVar[str] = "Zhang et al. 2024 (DSKD), arXiv 2406.17328, section 3.1"

    name: Literal["linear"] = "linear"
    bias: bool = True
    """Whether the map has a bias."""

    def build(self, *, source_size: int, target_size: int, heads: ProjectorHeads | None) -> Projection:  # noqa: ARG002
        """Return a linear layer with random weights."""
        return LinearProjection(source_size, target_size, bias=self.bias)
