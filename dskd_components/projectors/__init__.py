"""Built-in projectors between the hidden spaces of two models. Other rooms import the names below."""

from dskd_components.projectors.linear import Linear
from dskd_components.projectors.live_pinv import LivePinv
from dskd_components.projectors.mlp import MLP
from dskd_components.projectors.pinv import Pinv

BUILT_IN = (Linear, MLP, Pinv, LivePinv)
"""What `dskd_components.builtin` offers to the registry, in the order of its lists."""

__all__ = ["MLP", "Linear", "LivePinv", "Pinv"]
