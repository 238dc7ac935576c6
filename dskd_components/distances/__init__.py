"""Built-in distances between next-token distributions, a family in a file, all computed in log space."""

from dskd_components.distances.adaptive_kl import AdaptiveKL
from dskd_components.distances.js import JS
from dskd_components.distances.kl import KL, ReverseKL
from dskd_components.distances.skew_kl import SkewKL, SkewReverseKL

BUILT_IN = (KL, ReverseKL, JS, SkewKL, SkewReverseKL, AdaptiveKL)
"""What `dskd_components.builtin` offers to the registry, in the order of its lists."""

__all__ = ["JS", "KL", "AdaptiveKL", "ReverseKL", "SkewKL", "SkewReverseKL"]
