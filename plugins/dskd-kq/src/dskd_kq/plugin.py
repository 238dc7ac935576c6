"""What `dskd_components` loads: the entry point in ``pyproject.toml`` names this module."""

from dskd_components import Aligner, hookimpl
from dskd_kq.key_query_matching import KeyQueryMatching


@hookimpl
def dskd_aligners() -> list[type[Aligner]]:
    """Return the aligners of this distribution."""
    return [KeyQueryMatching]
