"""Laws of every component, whatever its kind: it is a typed, frozen set of options."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from hypothesis import strategies as st
from pydantic import ValidationError

from dskd_components.components.component import Component, tensor_held_by
from dskd_components.testing.expectation import expect
from dskd_components.testing.law import law
from dskd_components.testing.strategies.logits import normal
from dskd_components.testing.variants import other_values, variants

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn


def is_component(component: Any) -> bool:
    """Return whether something is a component, and no function in the place of one."""
    return isinstance(component, Component)


def one_case(_component: Any) -> st.SearchStrategy[Mapping[str, Any]]:
    """The only case of a law that needs none."""
    return st.just({})


@law("component", cases=one_case, claimed_by=is_component, at_most=1)
def spec_round_trips(component: Component) -> None:
    """A component goes through JSON and back unchanged.

    Specs are saved beside checkpoints. An option that JSON cannot hold, such as a function, breaks this.
    """
    document = component.model_dump_json()
    again = type(component).model_validate_json(document)
    expect(again == component, f"expected {component!r} back from {document}, found {again!r}.")


@law("component", cases=one_case, claimed_by=is_component, at_most=1)
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


@law("component", cases=one_case, claimed_by=is_component, at_most=1)
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


@law("component", cases=one_case, claimed_by=is_component, at_most=1)
def it_holds_no_tensor(component: Component) -> None:
    """A component holds no tensor, parameter or module, also in what it works out once and keeps.

    It would be neither trained nor saved nor moved. What `build` returns is.
    """
    kept = {
        name
        for base in type(component).__mro__
        for name, member in vars(base).items()
        if isinstance(member, cached_property)
    }
    for name in sorted({*kept, *vars(component), *(component.__pydantic_private__ or {})}):
        found = tensor_held_by(getattr(component, name))
        expect(found is None, f"expected {name!r} to hold options, found a {found}; build(...) returns what has those.")


def expect_effects(component: Component, observe: Callable[[Any], list[Any]]) -> None:
    """Raise AssertionError that names the options which make no difference to anything that is observed.

    An option may matter only beside another value of a second one, so each is varied around every variant.

    Args:
        component: what has the options.
        observe: returns what can be seen of a component: tensors, and anything that can be compared.
    """
    __tracebackhide__ = True
    seen: dict[str, list[Any]] = {}

    def observed(one: Component) -> list[Any]:
        key = repr(one)
        if key not in seen:
            seen[key] = observe(one)
        return seen[key]

    idle = {option for base in (component, *variants(type(component))) for option, _ in other_values(base)}
    for base in (component, *variants(type(component))):
        for option, other in other_values(base):
            if option in idle and not _same(observed(other), observed(base)):
                idle.remove(option)
        if not idle:
            return
    expect(False, f"expected an effect of every option, found none of {', '.join(sorted(idle))}.")


def trained(module: nn.Module, seed: int) -> None:
    """Move every parameter that is trained away from where it begins, as training does.

    A part that is zero at first hides whatever is wrong with what it multiplies.

    Args:
        module: changed in place.
        seed: the same seed moves it alike.
    """
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            if parameter.requires_grad:
                parameter.add_(0.5 * normal(seed + number, *parameter.shape).to(parameter.dtype))


def _same(found: Any, expected: Any) -> bool:
    if isinstance(found, torch.Tensor) and isinstance(expected, torch.Tensor):
        return found.shape == expected.shape and found.dtype == expected.dtype and torch.equal(found, expected)
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(_same, found, expected))
    return type(found) is type(expected) and bool(found == expected)
