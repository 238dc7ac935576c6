"""The hooks. A plugin is a module, named by an entry point of group ``dskd_components``, that implements some.

Examples:
    A plugin with one distance, complete but for its body::

        from dskd_components import Distance, hookimpl

        class Mine(Distance): ...

        @hookimpl
        def dskd_distances():
            return [Mine]

    and in its ``pyproject.toml``::

        [project.entry-points.dskd_components]
        mine = "my_package"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pluggy

from dskd_components.components.aligner import Aligner
from dskd_components.components.distance import Distance
from dskd_components.components.projector import Projector
from dskd_components.components.schedule import Schedule
from dskd_components.components.space import Space

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dskd_components.components.component import Component


PROJECT_NAME: Final = "dskd_components"

hookspec = pluggy.HookspecMarker(PROJECT_NAME)
hookimpl = pluggy.HookimplMarker(PROJECT_NAME)
"""Marks a function of a plugin as the implementation of the hook of its name."""


@hookspec
def dskd_distances() -> Sequence[type[Distance]]:  # type: ignore[empty-body]
    """Return the distance classes that the plugin offers."""


@hookspec
def dskd_aligners() -> Sequence[type[Aligner]]:  # type: ignore[empty-body]
    """Return the aligner classes that the plugin offers."""


@hookspec
def dskd_projectors() -> Sequence[type[Projector]]:  # type: ignore[empty-body]
    """Return the projector classes that the plugin offers."""


@hookspec
def dskd_spaces() -> Sequence[type[Space]]:  # type: ignore[empty-body]
    """Return the space classes that the plugin offers."""


@hookspec
def dskd_schedules() -> Sequence[type[Schedule]]:  # type: ignore[empty-body]
    """Return the schedule classes that the plugin offers."""


@dataclass(frozen=True)
class Kind:
    """One kind of component.

    Args:
        name: ``"distance"``, ``"aligner"``, ``"projector"``, ``"space"`` or ``"schedule"``.
        hook: the hook through which plugins offer classes of this kind.
        base: the class that they derive from.
    """

    name: str
    hook: str
    base: type[Component]

    @property
    def noun(self) -> str:
        """The name with its article."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"


KINDS: Final[dict[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("distance", "dskd_distances", Distance),
        Kind("aligner", "dskd_aligners", Aligner),
        Kind("projector", "dskd_projectors", Projector),
        Kind("space", "dskd_spaces", Space),
        Kind("schedule", "dskd_schedules", Schedule),
    )
}
