"""`laws_of`: a pytest test for each law of a component."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dskd_components.testing.checks import kind_of
from dskd_components.testing.laws import laws_about
from dskd_components.testing.trial import DEFAULT_EXAMPLES, component_label, require_law

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from dskd_components.testing.law import Law


def laws_of(*components: Any, max_examples: int = DEFAULT_EXAMPLES) -> Callable[..., None]:
    """Return a test function for pytest, with one test for each law that a component claims.

    Give it a name that pytest collects. A failure shows the law, the smallest values that break it, and what was
    expected and found there.

    Args:
        *components: distances, aligners, projectors, spaces or schedules with their options, or functions in the
            place of distances.
        max_examples: on how many cases each law is tried; ``pytest --dskd-max-examples`` overrides it.

    Returns:
        A parametrised test function.

    Raises:
        TypeError: a class came instead of an instance, or nothing came.

    Examples:
        >>> from dskd_components.distances import KL
        >>> test_forward_kl = laws_of(KL())
    """
    # The rest of the kit works without pytest.
    import pytest

    _require_instances(components)
    cases = [
        pytest.param(component, law, id=f"{component_label(component)}-{law.name}")
        for component in components
        for law in laws_about(kind_of(component))
        if law.claimed_by(component)
    ]

    def test_law(component: Any, law: Law, request: pytest.FixtureRequest) -> None:
        __tracebackhide__ = True
        asked = request.config.getoption("--dskd-max-examples", default=None)
        require_law(law, component, max_examples=asked or max_examples)

    parametrised: Callable[..., None] = pytest.mark.parametrize(("component", "law"), cases)(test_law)
    return parametrised


def _require_instances(components: tuple[Any, ...]) -> None:
    if not components:
        raise TypeError("laws_of: expected at least one component, got none.")
    for component in components:
        if isinstance(component, type):
            name = component.__name__
            raise TypeError(f"laws_of: expected an instance, got the class {name}; write laws_of({name}()).")
