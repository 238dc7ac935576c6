"""The look-ups that users type, over the plugins installed in this environment."""

from __future__ import annotations

from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dskd_components.errors import PluginError
from dskd_components.registry.registry import ComponentInfo, Registry

if TYPE_CHECKING:
    from dskd_components.contracts.aligner import Aligner
    from dskd_components.contracts.component import Component
    from dskd_components.contracts.distance import Distance
    from dskd_components.contracts.projector import Projector
    from dskd_components.contracts.space import Space

    AnyComponent = TypeVar("AnyComponent", bound=Component)


_loading: ContextVar[bool] = ContextVar("_loading", default=False)


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
        return Registry.of_installed_plugins()
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
        Linear(name='linear', bias=False)
    """
    return cast("Projector", _make("projector", name, fields))


def get_space(name: str, **fields: Any) -> Space:
    """Return the space registered under a name; arguments and errors as in `get_distance`.

    Examples:
        >>> get_space("student", filter="correct").filter
        'correct'
    """
    return cast("Space", _make("space", name, fields))


def list_components(kind: str | None = None) -> tuple[ComponentInfo, ...]:
    """Return every installed component, or those of one kind.

    Args:
        kind: ``"distance"``, ``"aligner"``, ``"projector"``, ``"space"``, or None for all.

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
