"""The look-ups that users type, over the plugins installed in this environment."""

from __future__ import annotations

import os
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dskd_components.components.policy import NO_RULES, PluginPolicy
from dskd_components.components.registry import ComponentInfo, Registry
from dskd_components.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dskd_components.components.aligner import Aligner
    from dskd_components.components.component import Component
    from dskd_components.components.distance import Distance
    from dskd_components.components.projector import Projector
    from dskd_components.components.schedule import Schedule
    from dskd_components.components.space import Space

    AnyComponent = TypeVar("AnyComponent", bound=Component)


_loading: ContextVar[bool] = ContextVar("_loading", default=False)
_asked_for = NO_RULES


def use_plugins(*, allow: Iterable[str] | None = None, disable: Iterable[str] = ()) -> None:
    """Say which distributions' plugins may be imported, before the first look-up by name.

    The built-in components always are there. ``DSKD_DISABLE_PLUGINS`` and ``DSKD_ALLOW_PLUGINS`` stay in force: a
    plugin is imported if neither they nor this call forbid it. Each call replaces the one before; without arguments
    it lifts it. What was imported already stays imported, but is no longer found by name.

    Args:
        allow: names of the only distributions whose plugins may be imported; ``[]``: none; None: all.
        disable: names of distributions whose plugins must not be imported.

    Raises:
        ConfigurationError: an argument is not a list of names.

    Examples:
        >>> use_plugins(allow=[])
        >>> sorted({info.distribution for info in list_components()})
        ['dskd-components']
        >>> use_plugins()
    """
    global _asked_for
    _asked_for = PluginPolicy.of_arguments(allow=allow, disable=disable)
    default_registry.cache_clear()


@cache
def default_registry() -> Registry:
    """Return the registry of the installed plugins. They are loaded by the first call, never by an import.

    Raises:
        PluginError: a plugin asks for a component while it is imported itself.
    """
    if _loading.get():
        raise PluginError("a component was looked up by name while plugins are being loaded; do it in a function.")
    token = _loading.set(True)
    try:
        return Registry.of_installed_plugins(PluginPolicy.of_environment(os.environ) + _asked_for)
    finally:
        _loading.reset(token)


def get_distance(name: str, **fields: Any) -> Distance:
    """Return the distance registered under a name, with the given options.

    Args:
        name: for example ``"kl"`` or ``"skew_kl"``.
        **fields: the distance's own options; an unknown one is an error that names the known ones.

    Raises:
        UnknownComponentError: no installed plugin has a distance of this name.
        PluginError: two installed plugins have one.
        pydantic.ValidationError: an option is unknown or out of range.

    Examples:
        >>> import torch
        >>> distance = get_distance("skew_kl", alpha=0.1)
        >>> teacher, student = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
        >>> distance(student, teacher)
        tensor([0.3653])
    """
    return cast("Distance", _make("distance", name, fields))


def get_aligner(name: str, **fields: Any) -> Aligner:
    """Return the aligner registered under a name; arguments and errors as in `get_distance`.

    Examples:
        >>> get_aligner("cma").name
        'cma'
    """
    return cast("Aligner", _make("aligner", name, fields))


def get_projector(name: str, **fields: Any) -> Projector:
    """Return the projector registered under a name; arguments and errors as in `get_distance`.

    Examples:
        >>> get_projector("linear", bias=False)
        Linear(name='linear', bias=False, init='calibrated')
    """
    return cast("Projector", _make("projector", name, fields))


def get_space(name: str, **fields: Any) -> Space:
    """Return the space registered under a name; arguments and errors as in `get_distance`.

    Examples:
        >>> get_space("student", filter="correct").filter
        'correct'
    """
    return cast("Space", _make("space", name, fields))


def get_schedule(name: str, **fields: Any) -> Schedule:
    """Return the schedule registered under a name; arguments and errors as in `get_distance`.

    Examples:
        >>> get_schedule("linear", start=0, end=1, steps=10).at(5)
        0.5
    """
    return cast("Schedule", _make("schedule", name, fields))


def list_components(kind: str | None = None) -> tuple[ComponentInfo, ...]:
    """Return every installed component, or those of one kind.

    Args:
        kind: ``"distance"``, ``"aligner"``, ``"projector"``, ``"space"``, ``"schedule"``, or None for all.

    Returns:
        What is registered, with name, class and distribution; printing an entry gives a readable line.

    Raises:
        UnknownComponentError: there is no such kind.

    Examples:
        >>> [info.name for info in list_components("distance") if info.distribution == "dskd-components"]
        ['adaptive_kl', 'js', 'kl', 'reverse_kl', 'skew_kl', 'skew_reverse_kl']
    """
    return default_registry().components(kind)


def _make(kind: str, name: str, fields: dict[str, Any]) -> Component:
    return default_registry().component_class(kind, name).model_validate(fields)
