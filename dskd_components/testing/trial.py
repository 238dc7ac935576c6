"""Trying one law on one component: cases are drawn, and a failing one is made as small as it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

from dskd_components.components.component import Component
from dskd_components.testing.printing import case_as_text, digits_are_left_out
from dskd_components.testing.report import LawResult
from dskd_components.testing.variants import label

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from dskd_components.testing.law import Law

DEFAULT_EXAMPLES = 50
"""How many cases each law is tried on, if nobody says otherwise."""


class LawViolationError(AssertionError):
    """A law does not hold; the message says which, on what values, and how to repeat it."""


def require_law(law: Law, component: Any, *, max_examples: int = DEFAULT_EXAMPLES, seed: int | None = None) -> None:
    """Try a law on a component.

    Args:
        law: the law; it is tried whether the component claims it or not.
        component: the component, or what takes its place.
        max_examples: on how many cases.
        seed: draws other cases; None: the same ones each time.

    Raises:
        LawViolationError: it does not hold.
    """
    __tracebackhide__ = True
    failure = _smallest_failure(law, component, max_examples, seed)
    if failure is not None:
        case, error = failure
        # The expectation says it all; what the component itself raised is kept with its traceback.
        cause = None if type(error) is AssertionError else error
        raise LawViolationError(_described(law, component, case, error, max_examples, seed)) from cause


def result_of(law: Law, component: Any, *, max_examples: int = DEFAULT_EXAMPLES, seed: int | None = None) -> LawResult:
    """Return what comes of a law for a component; arguments as in `require_law`."""
    found = LawResult(law.kind, component_label(component), law.name, law.claim, "passed")
    if not law.claimed_by(component):
        return LawResult(found.kind, found.component, found.law, found.claim, "not claimed")
    try:
        require_law(law, component, max_examples=max_examples, seed=seed)
    except LawViolationError as violation:
        return LawResult(found.kind, found.component, found.law, found.claim, "failed", str(violation))
    return found


def component_label(component: Any) -> str:
    """Return what to call a component, or a function in its place.

    Examples:
        >>> component_label(abs)
        'abs'
    """
    if isinstance(component, Component):
        return label(component)
    return str(getattr(component, "__name__", None) or type(component).__name__)


def _smallest_failure(
    law: Law, component: Any, max_examples: int, seed: int | None
) -> tuple[Mapping[str, Any], Exception] | None:
    last: list[tuple[Mapping[str, Any], Exception, TracebackType | None]] = []

    def attempt(case: Mapping[str, Any]) -> None:
        try:
            law.check(component, **case)
        except Exception as error:
            last.append((case, error, _inside_the_law(error)))
            raise

    @settings(
        max_examples=min(max_examples, law.at_most or max_examples),
        derandomize=seed is None,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        phases=_phases(),
        suppress_health_check=list(HealthCheck),
    )
    @given(law.cases(component))
    def attempt_drawn(case: Mapping[str, Any]) -> None:
        attempt(case)

    try:
        # What is drawn comes first: its failures are made small.
        (attempt_drawn if seed is None else seeded(seed)(attempt_drawn))()
        for case in law.always:
            attempt({name: _here(value) for name, value in case.items()})
    except Exception as error:
        if not last:  # the cases themselves could not be drawn
            return {}, error
        # The last failure is the smallest one: it is tried once more at the end.
        case, smallest, inside = last[-1]
        return case, smallest.with_traceback(inside)
    return None


def _here(value: Any) -> Any:
    """Return a value on the device that cases are drawn on."""
    return value.to(torch.get_default_device()) if isinstance(value, torch.Tensor) else value


def _phases() -> tuple[Phase, ...]:
    """Return what is done with cases: a failing one is made small unless the profile of Hypothesis leaves that out."""
    profile = settings.default
    shrinks = profile is None or Phase.shrink in profile.phases
    return (Phase.generate, Phase.shrink) if shrinks else (Phase.generate,)


def _inside_the_law(error: Exception) -> TracebackType | None:
    """Return the traceback from the law on, without the machinery around it, and drop what that has noted."""
    error.__notes__ = []
    return None if error.__traceback__ is None else error.__traceback__.tb_next


def _described(
    law: Law, component: Any, case: Mapping[str, Any], error: BaseException, max_examples: int, seed: int | None
) -> str:
    what = str(error) if type(error) is AssertionError else f"raised {type(error).__name__}: {error}"
    lines = [f"{law.kind} {component_label(component)} breaks the law {law.name!r}: {law.claim}", what]
    if case:
        rounded = " (rounded)" if digits_are_left_out(case) else ""
        lines += [f"The smallest case found{rounded}:", case_as_text(case)]
    again = f"max_examples={max_examples}" + ("" if seed is None else f", seed={seed}")
    lines.append(f"To repeat it: check_{law.kind}(..., {again}) tries the same cases each time.")
    return "\n".join(lines)
