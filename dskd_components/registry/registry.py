"""`Registry`: every installed component by kind and name, and every plugin that had to be left out."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from dskd_components.contracts.component import did_you_mean
from dskd_components.contracts.hookspecs import PROJECT_NAME
from dskd_components.errors import PluginError, PluginWarning, UnknownComponentError
from dskd_components.registry.kinds import KINDS
from dskd_components.registry.plugin import Origin, load_plugin

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import EntryPoint
    from typing import Self

    from dskd_components.contracts.component import Component


@dataclass(frozen=True)
class ComponentInfo:
    """One registered component.

    Args:
        kind: ``"distance"``, ``"aligner"``, ``"projector"`` or ``"space"``.
        name: the name that specs use.
        component: its class.
        origin: the plugin and distribution that it comes from.
    """

    kind: str
    name: str
    component: type[Component]
    origin: Origin

    @property
    def distribution(self) -> str:
        """Name of the distribution that ships it."""
        return self.origin.distribution

    @property
    def version(self) -> str:
        """Version of that distribution."""
        return self.origin.version

    @property
    def summary(self) -> str:
        """First line of its docstring."""
        return (inspect.getdoc(self.component) or "").partition("\n")[0]

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} ({self.distribution} {self.version}): {self.summary}"


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that was left out, and why."""

    origin: Origin
    reason: str


class Registry:
    """Components by kind and name. One broken plugin never takes the others down.

    Args:
        plugins: the entry points to load.
    """

    def __init__(self, plugins: Iterable[EntryPoint]) -> None:
        self._found: dict[tuple[str, str], list[ComponentInfo]] = {}
        self._broken: list[BrokenPlugin] = []
        for entry_point in plugins:
            self._add(entry_point)

    @classmethod
    def of_installed_plugins(cls) -> Self:
        """Load every installed distribution that has an entry point in the group ``dskd_components``."""
        return cls(entry_points(group=PROJECT_NAME))

    def _add(self, entry_point: EntryPoint) -> None:
        origin = Origin.of(entry_point)
        try:
            components = load_plugin(entry_point)
        except PluginError as error:
            reason = str(error).removesuffix(".")
            self._broken.append(BrokenPlugin(origin, reason))
            warnings.warn(f"{reason}. It is left out; other plugins are not affected.", PluginWarning, stacklevel=2)
            return
        for kind, component in components:
            name = component.component_name()
            claims = self._found.setdefault((kind.name, name), [])
            if all(claim.component is not component for claim in claims):
                claims.append(ComponentInfo(kind.name, name, component, origin))

    @property
    def broken(self) -> tuple[BrokenPlugin, ...]:
        """The plugins that could not be used."""
        return tuple(self._broken)

    def components(self, kind: str | None = None) -> tuple[ComponentInfo, ...]:
        """Return what is registered, by kind and then by name; a name taken twice appears once for each taker."""
        if kind is not None and kind not in KINDS:
            raise UnknownComponentError(
                f"unknown kind of component {kind!r}{did_you_mean(kind, list(KINDS))}; the kinds are "
                f"{', '.join(KINDS)}."
            )
        order = list(KINDS)
        infos = (info for claims in self._found.values() for info in claims if kind in (None, info.kind))
        return tuple(sorted(infos, key=lambda info: (order.index(info.kind), info.name, info.distribution)))

    def component_class(self, kind: str, name: str) -> type[Component]:
        """Return the class registered under a name.

        Raises:
            UnknownComponentError: no plugin has it; the message has the nearest names and the broken plugins.
            PluginError: two plugins have it; the message names both.
        """
        claims = self._found.get((kind, name), [])
        if len(claims) > 1:
            takers = " and by ".join(str(claim.origin) for claim in claims)
            raise PluginError(
                f"{kind} {name!r} is taken twice: by {takers}. Uninstall one of them, or ask its author for another "
                "name. Other names are not affected."
            )
        if not claims:
            raise UnknownComponentError(self._unknown(kind, name))
        return claims[0].component

    def _unknown(self, kind: str, name: str) -> str:
        known = sorted(known_name for known_kind, known_name in self._found if known_kind == kind)
        message = f"unknown {kind} {name!r}{did_you_mean(name, known)}; installed: {', '.join(known) or 'none'}."
        elsewhere = [KINDS[other].noun for other, other_name in self._found if other_name == name and other != kind]
        if elsewhere:
            message += f" {name!r} is the name of {' and of '.join(elsewhere)}."
        if self._broken:
            message += " These plugins were left out: " + "; ".join(broken.reason for broken in self._broken) + "."
        return message
