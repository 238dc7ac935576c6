"""Loading one plugin: every way in which it can be broken ends here, with its name on it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pluggy
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

from dskd_components._version import __version__
from dskd_components.components import hookspecs
from dskd_components.components.hookspecs import KINDS, PROJECT_NAME, Kind
from dskd_components.components.policy import LIBRARY, unmet_requirement
from dskd_components.errors import PluginError, as_sentence, class_and_message, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.metadata import Distribution, EntryPoint

    from dskd_components.components.component import Component


@dataclass(frozen=True)
class Origin:
    """Where a plugin comes from.

    Args:
        plugin: name of the entry point.
        distribution: name of the installed distribution.
        version: version of the distribution.
    """

    plugin: str
    distribution: str
    version: str

    @classmethod
    def of(cls, entry_point: EntryPoint) -> Origin:
        """Return the origin that an entry point declares."""
        distribution = _distribution(entry_point)
        if distribution is None:
            return cls(entry_point.name, "unknown", "unknown")
        return cls(entry_point.name, distribution.name, distribution.version)

    def __str__(self) -> str:
        return f"plugin {self.plugin!r} of distribution {self.distribution} {self.version}"


def _distribution(entry_point: EntryPoint) -> Distribution | None:
    """Return the distribution, unless it was removed by half and has lost its metadata."""
    distribution = entry_point.dist
    known = distribution is not None and {"Name", "Version"} <= set(distribution.metadata)
    return distribution if known else None


def load_plugin(entry_point: EntryPoint) -> list[tuple[Kind, type[Component]]]:
    """Import a plugin and return the component classes that its hooks give.

    Args:
        entry_point: an entry point of the group ``dskd_components``.

    Raises:
        PluginError: the plugin needs another version of this library, cannot be imported, implements a hook that does
            not exist or with arguments that it does not have, fails in a hook, or returns something that is not a
            component of that kind.
    """
    origin = Origin.of(entry_point)
    distribution = _distribution(entry_point)
    unmet = distribution and unmet_requirement(distribution)
    if unmet:
        raise PluginError(
            f"{origin} needs {unmet}, and {LIBRARY} {__version__} is installed. Install a version of either that fits "
            "the other."
        )
    with _failures(f"{origin} cannot be imported from {entry_point.value!r}"):
        plugin = entry_point.load()
    with _failures(f"{origin} cannot be inspected", let_through=PluginError):
        return list(_components(plugin, origin))


@contextmanager
def _failures(what: str, *, let_through: type[BaseException] = KeyboardInterrupt) -> Iterator[None]:
    """Turn every way in which a plugin's own code can fail into a `PluginError`.

    It may even leave the interpreter, or raise what is meant for a test runner; neither must take the user's program
    along. A user may still interrupt.
    """
    try:
        yield
    except (KeyboardInterrupt, let_through):
        raise
    except BaseException as error:
        raise PluginError(f"{what}: {class_and_message(error)}") from error


def _components(plugin: Any, origin: Origin) -> Iterator[tuple[Kind, type[Component]]]:
    manager = pluggy.PluginManager(PROJECT_NAME)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, name=origin.plugin)
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{origin} has a hook with the wrong signature: {as_sentence(error)}") from error
    known = [kind.hook for kind in KINDS.values()]
    implemented = [caller.name for caller in manager.get_hookcallers(plugin) or []]
    for name in implemented:
        if name not in known:
            raise PluginError(
                f"{origin} implements an unknown hook {name!r}{did_you_mean(name, known)}; the hooks are "
                f"{', '.join(known)}."
            )
    if not implemented:
        raise PluginError(
            f"{origin} implements no hook. Mark a function with @hookimpl and name it after one of: {', '.join(known)}."
        )
    for kind in KINDS.values():
        if kind.hook in implemented:
            yield from ((kind, component) for component in _call(manager, kind, origin))


def _call(manager: pluggy.PluginManager, kind: Kind, origin: Origin) -> list[type[Component]]:
    with _failures(f"{origin}: its hook {kind.hook} failed"):
        # pluggy leaves out a hook that returns None.
        [returned] = getattr(manager.hook, kind.hook)() or [None]
        listed = isinstance(returned, Iterable) and not isinstance(returned, (str, bytes, Mapping))
        components = list(returned) if listed else None
    if components is None:
        raise PluginError(f"{origin}: its hook {kind.hook} returned {returned!r}; expected a list of classes.")
    return [_checked(component, kind, origin) for component in components]


def _checked(component: object, kind: Kind, origin: Origin) -> type[Component]:
    where = f"{origin}: its hook {kind.hook} returned {component!r}"
    if not inspect.isclass(component):
        raise PluginError(f"{where}; expected classes, not instances.")
    if not issubclass(component, kind.base):
        raise PluginError(f"{where}; expected subclasses of {kind.base.__name__}.")
    if inspect.isabstract(component):
        missing = ", ".join(sorted(component.__abstractmethods__))
        raise PluginError(f"{where}, which is abstract; it must define {missing}.")
    try:
        name = component.component_name()
    except TypeError as error:
        raise PluginError(f"{where}: {as_sentence(error)}") from error
    if not re.fullmatch(r"[A-Za-z][\w-]*", name, re.ASCII):
        raise PluginError(f"{where}, whose name is {name!r}; expected a letter, then letters, digits, '_' and '-'.")
    try:
        # A class whose options have types that pydantic could not find yet fails only when it is used.
        component.model_rebuild()
    except (PydanticUndefinedAnnotation, PydanticUserError) as error:
        raise PluginError(
            f"{where}, which has an option of a type that cannot be found: {error.message}; import it at run time, not "
            "under TYPE_CHECKING."
        ) from error
    return component
