"""The kinds of component: the hook that offers each and the class that each must derive from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dskd_components.contracts.aligner import Aligner
from dskd_components.contracts.distance import Distance
from dskd_components.contracts.projector import Projector
from dskd_components.contracts.space import Space

if TYPE_CHECKING:
    from dskd_components.contracts.component import Component


@dataclass(frozen=True)
class Kind:
    """One kind of component.

    Args:
        name: ``"distance"``, ``"aligner"``, ``"projector"`` or ``"space"``.
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
    )
}
