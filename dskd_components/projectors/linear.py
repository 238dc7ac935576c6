"""Affine projector."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from torch import nn
from torch.nn import functional as F

from dskd_components.components.projector import Affine, Projection, Projector, ProjectorHeads
from dskd_components.projectors.calibration import calibrate

if TYPE_CHECKING:
    from torch import Tensor


Init = Literal["calibrated", "torch"]
"""How random weights start: scaled to the heads, or as `torch.nn.Linear` draws them."""


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
    """Affine map with random weights.

    Drawn as `torch.nn.Linear` draws them, they do not know how large the states are that come in, nor what the target's
    head makes of those that go out: projected states may be read as sure and wrong predictions, far worse than a
    uniform guess, and the student is pulled there until the projector has learned. Calibrated, the same weights are
    multiplied by one number, which follows from the two heads, so that ``t2s_ce_covered`` starts at nearly a uniform
    guess.

    Examples:
        >>> Linear().build(source_size=24, target_size=16, heads=None)
        LinearProjection(24 -> 16, bias=True)
    """

    source: ClassVar[str] = "Zhang et al. 2024 (DSKD), arXiv 2406.17328, section 3.1"

    name: Literal["linear"] = "linear"
    bias: bool = True
    """Whether the map has a bias."""
    init: Init = "calibrated"
    """How it starts. ``calibrated``: scaled to the heads, the bias at 0; where the heads are not given, as ``torch``.
    ``torch``: as `torch.nn.Linear`, which is what was published."""

    def build(self, *, source_size: int, target_size: int, heads: ProjectorHeads | None) -> Projection:
        """Return a linear layer with random weights."""
        projection = LinearProjection(source_size, target_size, bias=self.bias)
        if self.init == "calibrated" and heads is not None:
            calibrate([projection], heads)
        return projection
