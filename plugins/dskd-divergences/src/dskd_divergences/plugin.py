"""What `dskd_components` loads: the entry point in ``pyproject.toml`` names this module."""

from dskd_components import Distance, hookimpl
from dskd_divergences.total_variation import TotalVariation


@hookimpl
def dskd_distances() -> list[type[Distance]]:
    """Return the distances of this distribution."""
    return [TotalVariation]
