"""Whether the installed library is one that a plugin was written for: its distribution says so, as to an installer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from dskd_components._version import __version__

if TYPE_CHECKING:
    from importlib.metadata import Distribution

LIBRARY: Final = "dskd-components"


def unmet_requirement(distribution: Distribution, *, library_version: str = __version__) -> str | None:
    """Return the requirement on this library that the installed version does not meet, or None.

    Installers check it too, but not with ``--no-deps``, nor when the library alone is replaced later. It is checked
    before the plugin is imported, so the report is a sentence and not whichever import happens to fail.

    Args:
        distribution: the plugin's distribution.
        library_version: the version to compare with.
    """
    for text in distribution.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:  # the installer's business: what it says of this library cannot be known
            continue
        concerns_us = canonicalize_name(requirement.name) == LIBRARY
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if concerns_us and applies and not requirement.specifier.contains(library_version, prereleases=True):
            return f"{LIBRARY}{requirement.specifier}"
    return None
