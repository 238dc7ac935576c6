"""Built-in projectors between the hidden spaces of two models, one concept a file."""

from dskd_components.projectors.linear import Linear
from dskd_components.projectors.live_pinv import LivePinv
from dskd_components.projectors.mlp import MLP
from dskd_components.projectors.pinv import Pinv

__all__ = ["MLP", "Linear", "LivePinv", "Pinv"]
