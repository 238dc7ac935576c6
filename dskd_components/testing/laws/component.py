"""Laws of every component, whatever its kind: it is a typed, frozen set of options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from pydantic import ValidationError

from dskd_components.components.component import Component
from dskd_components.testing.expectation import expect
from dskd_components.testing.law import law

if TYPE_CHECKING:
    from collections.abc import Mapping


def _is_component(component: Any) -> bool:
    return isinstance(component, Component)


def _one_case(_component: Any) -> st.SearchStrategy[Mapping[str, Any]]:
    return st.just({})


@law("component", cases=_one_case, claimed_by=_is_component, at_most=1)
def spec_round_trips(component: Component) -> None:
    """A component goes through JSON and back unchanged.

    Specs are saved beside checkpoints. An option that JSON cannot hold, such as a function, breaks this.
    """
    document = component.model_dump_json()
    again = type(component).model_validate_json(document)
    expect(again == component, f"expected {component!r} back from {document}, found {again!r}.")


@law("component", cases=_one_case, claimed_by=_is_component, at_most=1)
def unknown_options_are_refused(component: Component) -> None:
    """An option that does not exist is an error.

    A misspelt option that is silently dropped costs a training run.
    """
    options = dict(component) | {"an_option_that_nobody_has": 1}
    try:
        type(component).model_validate(options)
    except ValidationError:
        return
    expect(False, "expected a validation error for the unknown option 'an_option_that_nobody_has', found none.")


@law("component", cases=_one_case, claimed_by=_is_component, at_most=1)
def it_cannot_be_changed(component: Component) -> None:
    """Assigning to an option is an error.

    A spec that has been read stays what it was, whoever holds it.
    """
    for option, value in component:
        try:
            setattr(component, option, value)
        except (ValidationError, AttributeError, TypeError):
            continue
        expect(False, f"expected an error when {option!r} is assigned to, found none.")
