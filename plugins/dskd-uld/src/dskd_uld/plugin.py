"""What `dskd_components` loads: the entry point in ``pyproject.toml`` names this module."""

from dskd_components import Aligner, Space, hookimpl
from dskd_uld.hybrid_space import HybridSpace
from dskd_uld.positional import Positional
from dskd_uld.sorted_space import SortedSpace


@hookimpl
def dskd_spaces() -> list[type[Space]]:
    """Return the spaces of this distribution."""
    return [SortedSpace, HybridSpace]


@hookimpl
def dskd_aligners() -> list[type[Aligner]]:
    """Return the aligners of this distribution."""
    return [Positional]
