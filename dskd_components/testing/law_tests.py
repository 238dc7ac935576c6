"""`laws_of`: a pytest test for each law of a component."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dskd_components.testing.checks import kind_of, require_examples, require_instance
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
        TypeError: a class or a name came instead of an instance, or nothing came.
        ValueError: ``max_examples`` is no number of cases.

    Examples:
        >>> from dskd_components.distances import KL
        >>> test_forward_kl = laws_of(KL())
    """
    # The rest of the kit works without pytest.
    import pytest

    if not components:
        raise TypeError("laws_of: expected at least one component, got none.")
    for component in components:
        require_instance("laws_of", component)
    require_examples(max_examples)
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
