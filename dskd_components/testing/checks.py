"""`check_distance` and its like: every law of a component, as a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dskd_components.components.component import Component
from dskd_components.components.hookspecs import KINDS
from dskd_components.testing.laws import laws_about
from dskd_components.testing.report import CheckReport, LawResult
from dskd_components.testing.trial import DEFAULT_EXAMPLES, component_label, result_of

if TYPE_CHECKING:
    from dskd_components.components.aligner import Aligner
    from dskd_components.components.distance import Distance
    from dskd_components.components.projector import Projector
    from dskd_components.components.schedule import Schedule
    from dskd_components.components.space import Space
    from dskd_components.testing.laws.distance import DistanceFunction


def check_distance(
    distance: Distance | DistanceFunction, *, max_examples: int = DEFAULT_EXAMPLES, seed: int | None = None
) -> CheckReport:
    """Try every law of distances on one.

    Args:
        distance: a `Distance` with its options, or any function that maps log-probabilities ``[N, V]`` of student and
            teacher to ``[N]``. A function claims to be zero only at equality and to be differentiated as it is, unless
            it has attributes that say otherwise (``zero_iff_equal``, ``gradient_is_derivative``, ``symmetric``, ...).
        max_examples: on how many cases each law is tried; some need fewer.
        seed: draws other cases; None: the same ones each time.

    Returns:
        A result for each law.

    Raises:
        TypeError: it is a class, something of another kind, or nothing that can be called.
        ValueError: ``max_examples`` is no number of cases.

    Examples:
        >>> from dskd_components.distances import KL
        >>> report = check_distance(KL(), max_examples=5)
        >>> report.passed, [result.law for result in report.results if result.outcome == "not claimed"][:2]
        (True, ['symmetric', 'bounded'])
        >>> def euclidean(student_log_probs, teacher_log_probs):
        ...     return (student_log_probs.exp() - teacher_log_probs.exp()).norm(dim=-1)
        >>> [failure.law for failure in check_distance(euclidean, max_examples=5).failures]
        []
    """
    return _report("distance", distance, max_examples, seed)


def check_aligner(aligner: Aligner, *, max_examples: int = DEFAULT_EXAMPLES, seed: int | None = None) -> CheckReport:
    """Try every law of aligners on one; arguments as in `check_distance`.

    Examples:
        >>> from dskd_components.aligners import Identity
        >>> check_aligner(Identity(), max_examples=5).passed
        True
    """
    return _report("aligner", aligner, max_examples, seed)


def check_projector(
    projector: Projector, *, max_examples: int = DEFAULT_EXAMPLES, seed: int | None = None
) -> CheckReport:
    """Try every law of projectors on one; arguments as in `check_distance`.

    Examples:
        >>> from dskd_components.projectors import Linear
        >>> check_projector(Linear(bias=False), max_examples=5).passed
        True
    """
    return _report("projector", projector, max_examples, seed)


def check_space(space: Space, *, max_examples: int = DEFAULT_EXAMPLES, seed: int | None = None) -> CheckReport:
    """Try every law of spaces on one; arguments as in `check_distance`.

    Examples:
        >>> from dskd_components.spaces import StudentSpace
        >>> check_space(StudentSpace(filter="correct"), max_examples=5).passed
        True
    """
    return _report("space", space, max_examples, seed)


def check_schedule(schedule: Schedule, *, max_examples: int = DEFAULT_EXAMPLES, seed: int | None = None) -> CheckReport:
    """Try every law of schedules on one; arguments as in `check_distance`.

    Examples:
        >>> from dskd_components.spec import LinearSchedule
        >>> check_schedule(LinearSchedule(start=0, end=1, steps=10), max_examples=5).passed
        True
    """
    return _report("schedule", schedule, max_examples, seed)


def check_component(
    component: Component, *, max_examples: int = DEFAULT_EXAMPLES, seed: int | None = None
) -> CheckReport:
    """Try every law of a component's kind on it; arguments as in `check_distance`."""
    return _report(component.kind, component, max_examples, seed)


def require_instance(caller: str, component: Any) -> None:
    """Refuse what laws cannot be tried on, before each of them fails in its own way.

    Args:
        caller: the function that was called, for the message.
        component: what it was given in the place of a component.

    Raises:
        TypeError: it is a class, or neither a component nor a function.
    """
    if isinstance(component, type):
        name = component.__name__
        raise TypeError(f"{caller}: expected an instance, got the class {name}; write {caller}({name}()).")
    if not isinstance(component, Component) and not callable(component):
        hint = ""
        if isinstance(component, str):
            hint = f"; a name stands for a component in specs alone, here write get_distance({component!r}) or its like"
        raise TypeError(
            f"{caller}: expected a component, or a function in the place of a distance, got {component!r}{hint}."
        )


def require_examples(max_examples: object) -> None:
    """Refuse what is no number of cases.

    Raises:
        ValueError: it is no integer of 1 or more.
    """
    if not isinstance(max_examples, int) or isinstance(max_examples, bool) or max_examples < 1:
        raise ValueError(f"max_examples: expected an integer, 1 or more, got {max_examples!r}.")


def kind_of(component: Any) -> str:
    """Return the kind of a component; a function in the place of one is a distance."""
    return component.kind if isinstance(component, Component) else "distance"


def _report(kind: str, component: Any, max_examples: int, seed: int | None) -> CheckReport:
    require_instance(f"check_{kind}", component)
    own = kind_of(component)
    if own != kind:
        name = component_label(component)
        raise TypeError(
            f"check_{kind}: expected {KINDS[kind].noun}, got {KINDS[own].noun}, {name}; check_{own}(...) tries those."
        )
    require_examples(max_examples)
    found = (result_of(law, component, max_examples=max_examples, seed=seed) for law in laws_about(kind))
    name = component_label(component)
    return CheckReport(tuple(LawResult(kind, name, r.law, r.claim, r.outcome, r.message) for r in found))
