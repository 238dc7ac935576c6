"""What `dskd_components` loads: the entry point in ``pyproject.toml`` names this module."""

from dskd_components import Distance, hookimpl
from dskd_divergences.alpha import Alpha
from dskd_divergences.alpha_beta import AlphaBeta
from dskd_divergences.hellinger import Hellinger
from dskd_divergences.jeffreys import Jeffreys
from dskd_divergences.renyi import Renyi
from dskd_divergences.squared_hellinger import SquaredHellinger
from dskd_divergences.total_variation import TotalVariation
from dskd_divergences.triangular import Triangular


@hookimpl
def dskd_distances() -> list[type[Distance]]:
    """Return the distances of this distribution."""
    return [Alpha, AlphaBeta, Hellinger, Jeffreys, Renyi, SquaredHellinger, TotalVariation, Triangular]
