"""Further distances for `dskd_components`: installing this distribution is all it takes to use them by name."""

from dskd_divergences.alpha import Alpha
from dskd_divergences.alpha_beta import AlphaBeta
from dskd_divergences.hellinger import Hellinger
from dskd_divergences.jeffreys import Jeffreys
from dskd_divergences.renyi import Renyi
from dskd_divergences.squared_hellinger import SquaredHellinger
from dskd_divergences.total_variation import TotalVariation
from dskd_divergences.triangular import Triangular

__all__ = ["Alpha", "AlphaBeta", "Hellinger", "Jeffreys", "Renyi", "SquaredHellinger", "TotalVariation", "Triangular"]
