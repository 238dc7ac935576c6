"""Components of a class with other options than the defaults, one option at a time."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic.fields import FieldInfo

    from dskd_components.components.component import Component

UNBOUNDED: Final = 3.0
"""How far above a lower bound (or below an upper one) options are tried where the other bound is missing."""


def variants(component_class: type[Component]) -> tuple[Component, ...]:
    """Return the components of a class that are worth testing: the default one, then others in one option each.

    Options of numbers are tried at two values inside their bounds, flags and choices at all of theirs; options of
    other types keep their defaults. What the class offers by `Component.examples` comes last.

    Args:
        component_class: a concrete component class.

    Returns:
        Different components, the one with all defaults first. Only what the class offers itself if an option that has
        no default is of a type that is not understood.

    Examples:
        >>> from dskd_components.distances import KL, SkewKL
        >>> variants(KL)
        (KL(name='kl'),)
        >>> [component.alpha for component in variants(SkewKL)]
        [0.1, 0.25, 0.75]
    """
    options = {name: field for name, field in component_class.model_fields.items() if name != "name"}
    required = {name: values for name, field in options.items() if field.is_required() for values in [_values(field)]}
    offered = component_class.examples()
    if not all(required.values()):
        return offered
    base = {name: values[0] for name, values in required.items()}
    settings = [base] + [base | {name: value} for name, field in options.items() for value in _values(field)]
    made = _different(component_class, settings)
    return (*made, *(one for one in offered if one not in made))


def other_values(component: Component) -> Iterator[tuple[str, Component]]:
    """Yield for each option the components that have another value of it and are equal otherwise.

    Args:
        component: what they differ from.

    Examples:
        >>> from dskd_components.distances import JS
        >>> [(option, other.beta) for option, other in other_values(JS())]
        [('beta', 0.25), ('beta', 0.75)]
    """
    given = {name: getattr(component, name) for name in type(component).model_fields}
    for name, field in type(component).model_fields.items():
        for other in _different(type(component), [given | {name: value} for value in _values(field)]):
            if name != "name" and other != component:
                yield name, other


def label(component: Component) -> str:
    """Return the name of a component, with the options that are not at their defaults.

    Examples:
        >>> from dskd_components.distances import JS
        >>> label(JS()), label(JS(beta=0.25))
        ('js', 'js(beta=0.25)')
    """
    fields = type(component).model_fields
    values = {name: getattr(component, name) for name in fields if name != "name"}
    shown = [
        f"{name}={value!r}"
        for name, value in values.items()
        if fields[name].is_required() or value != fields[name].default
    ]
    return f"{component.name}({', '.join(shown)})" if shown else component.name


def _different(component_class: type[Component], settings: list[dict[str, Any]]) -> tuple[Component, ...]:
    found: list[Component] = []
    for options in settings:
        try:
            component = component_class.model_validate(options)
        except ValidationError:  # a condition over several options, or one that no bound expresses
            continue
        if component not in found:
            found.append(component)
    return tuple(found)


def _values(field: FieldInfo) -> list[Any]:
    """The values at which an option is tried, none if its type is not understood."""
    annotation, bounds = _without_optional(field.annotation), list(field.metadata)
    if get_origin(annotation) is Annotated:
        annotation, *inner = get_args(annotation)
        bounds += [bound for item in inner for bound in getattr(item, "metadata", [item])]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    values: Callable[[list[Any]], list[Any]] | None = {bool: _flags, int: _integers, float: _numbers}.get(annotation)
    return [] if values is None else values(bounds)


def _without_optional(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        [*others] = [choice for choice in get_args(annotation) if choice is not type(None)]
        return others[0] if len(others) == 1 else annotation
    return annotation


def _flags(_bounds: list[Any]) -> list[Any]:
    return [False, True]


def _integers(bounds: list[Any]) -> list[Any]:
    low, high = _ends(bounds)
    # A small whole number above an excluded or included end; large ones cost more than they show.
    first = int(low // 1 + 1)
    return [number for number in (first, first + 1) if number <= high]


def _numbers(bounds: list[Any]) -> list[Any]:
    low, high = _ends(bounds)
    return [low + share * (high - low) for share in (0.25, 0.75)]


def _ends(bounds: list[Any]) -> tuple[float, float]:
    # pydantic keeps bounds as objects with an attribute of the bound's name.
    lows = [getattr(bound, end) for bound in bounds for end in ("ge", "gt") if getattr(bound, end, None) is not None]
    highs = [getattr(bound, end) for bound in bounds for end in ("le", "lt") if getattr(bound, end, None) is not None]
    if lows:
        return float(max(lows)), float(min(highs)) if highs else float(max(lows)) + UNBOUNDED
    return (float(min(highs)) - UNBOUNDED, float(min(highs))) if highs else (0.0, UNBOUNDED)
