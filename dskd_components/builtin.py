"""The built-in components. They enter through the same hooks and entry point as anybody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dskd_components import aligners, distances, projectors, spaces
from dskd_components.components.hookspecs import hookimpl
from dskd_components.spec import schedules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dskd_components.components import Aligner, Distance, Projector, Schedule, Space


@hookimpl
def dskd_distances() -> Sequence[type[Distance]]:
    """Return the built-in distances."""
    return distances.BUILT_IN


@hookimpl
def dskd_aligners() -> Sequence[type[Aligner]]:
    """Return the built-in aligners."""
    return aligners.BUILT_IN


@hookimpl
def dskd_projectors() -> Sequence[type[Projector]]:
    """Return the built-in projectors."""
    return projectors.BUILT_IN


@hookimpl
def dskd_spaces() -> Sequence[type[Space]]:
    """Return the built-in spaces."""
    return spaces.BUILT_IN


@hookimpl
def dskd_schedules() -> Sequence[type[Schedule]]:
    """Return the built-in schedules."""
    return schedules.BUILT_IN
