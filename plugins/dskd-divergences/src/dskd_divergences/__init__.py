"""Further distances for `dskd_components`: installing this distribution is all it takes to use them by name."""

from dskd_divergences.total_variation import TotalVariation

__all__ = ["TotalVariation"]
