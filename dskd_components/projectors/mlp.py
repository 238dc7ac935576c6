"""Multi-layer projector."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from pydantic import Field
from torch import nn
from torch.nn import functional as F

from dskd_components.components.projector import Projection, Projector, ProjectorHeads
from dskd_components.projectors.calibration import calibrate
from dskd_components.projectors.linear import Init, LinearProjection

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

Activation = Literal["relu", "gelu", "silu", "tanh"]

ACTIVATIONS: Final[dict[Activation, Callable[[Tensor], Tensor]]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": F.tanh,
}


class MLPProjection(Projection):
    """Affine layers with an activation between them; parameters ``layers.i.weight`` and ``layers.i.bias``.

    Args:
        sizes: widths from input to output.
        activation: name of the activation.
    """

    def __init__(self, sizes: list[int], activation: Activation) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LinearProjection(a, b) for a, b in itertools.pairwise(sizes))
        self.activation = activation

    def forward(self, hidden_states: Tensor, heads: ProjectorHeads | None = None) -> Tensor:
        """Return ``[..., d_target]``."""
        activate = ACTIVATIONS[self.activation]
        *inner, last = self.layers
        for layer in inner:
            hidden_states = activate(layer(hidden_states, heads))
        projected: Tensor = last(hidden_states, heads)
        return projected


class MLP(Projector):
    """Affine layers with an activation between them.

    Examples:
        >>> MLP(hidden_size=32).build(source_size=24, target_size=16, heads=None)
        MLPProjection(
          (layers): ModuleList(
            (0): LinearProjection(24 -> 32, bias=True)
            (1): LinearProjection(32 -> 16, bias=True)
          )
        )
    """

    source: ClassVar[str] = "Zhang et al. 2024 (DSKD), arXiv 2406.17328, released code"

    name: Literal["mlp"] = "mlp"
    hidden_size: Annotated[int, Field(gt=0)] | None = None
    """Width of the inner layers; None: the target's width."""
    num_layers: Annotated[int, Field(ge=2, le=8)] = 2
    """Number of affine layers."""
    activation: Activation = "relu"
    """What stands between them."""
    init: Init = "calibrated"
    """How it starts. ``calibrated``: each layer is scaled so that activations get entries of ordinary size, the last
    one to the heads, its bias at 0; where the heads are not given, as ``torch``. ``torch``: as `torch.nn.Linear`, which
    is what was published. See `Linear`."""

    def build(self, *, source_size: int, target_size: int, heads: ProjectorHeads | None) -> Projection:
        """Return an MLP with random weights."""
        inner = [self.hidden_size or target_size] * (self.num_layers - 1)
        projection = MLPProjection([source_size, *inner, target_size], self.activation)
        if self.init == "calibrated" and heads is not None:
            calibrate(list(projection.layers), heads, ACTIVATIONS[self.activation])
        return projection
