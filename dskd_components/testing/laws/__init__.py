"""The catalogue of laws, by kind of component. Each law is a function that can be called on its own."""

from dskd_components.testing.law import Law, entered_laws
from dskd_components.testing.laws import aligner, component, distance, projector, schedule, space, training

__all__ = ["Law", "aligner", "component", "distance", "laws_about", "projector", "schedule", "space", "training"]


def laws_about(kind: str) -> tuple[Law, ...]:
    """Return the laws of one kind of component, those of every component last.

    Args:
        kind: ``"distance"``, ``"aligner"``, ``"projector"``, ``"space"`` or ``"schedule"``.

    Examples:
        >>> [law.name for law in laws_about("distance") if "bound" in law.name]
        ['bounded', 'the_bound_is_reached']
    """
    return (*entered_laws(kind), *entered_laws("component"))
