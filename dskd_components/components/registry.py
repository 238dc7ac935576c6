"""`Registry`: every installed component by kind and name, and every plugin that had to be left out."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from dskd_components.components.hookspecs import KINDS, PROJECT_NAME
from dskd_components.components.loading import Origin, load_plugin
from dskd_components.components.policy import NO_RULES, is_built_in
from dskd_components.errors import PluginError, PluginWarning, UnknownComponentError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import EntryPoint
    from typing import Self

    from dskd_components.components.component import Component
    from dskd_components.components.policy import PluginPolicy, Rule


@dataclass(frozen=True)
class ComponentInfo:
    """One registered component.

    Args:
        kind: ``"distance"``, ``"aligner"``, ``"projector"``, ``"space"`` or ``"schedule"``.
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
        """First line of its own docstring."""
        return inspect.cleandoc(self.component.__doc__ or "").partition("\n")[0]

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} ({self.distribution} {self.version}): {self.summary}"


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that was left out, and why."""

    origin: Origin
    reason: str


@dataclass(frozen=True)
class DisabledPlugin:
    """A plugin that was not looked into, and the rule that forbids it."""

    origin: Origin
    rule: Rule


class Registry:
    """Components by kind and name. One broken plugin never takes the others down.

    Args:
        plugins: the entry points to load.
        policy: which of them may be imported. The built-in components always are.
    """

    def __init__(self, plugins: Iterable[EntryPoint], policy: PluginPolicy = NO_RULES) -> None:
        self.policy = policy
        self._found: dict[tuple[str, str], list[ComponentInfo]] = {}
        self._broken: list[BrokenPlugin] = []
        self._disabled: list[DisabledPlugin] = []
        for entry_point in plugins:
            origin = Origin.of(entry_point)
            rule = None if is_built_in(entry_point) else policy.rule_against(origin.distribution)
            if rule is None:
                self._add(entry_point, origin)
            else:
                self._disabled.append(DisabledPlugin(origin, rule))

    @classmethod
    def of_installed_plugins(cls, policy: PluginPolicy = NO_RULES) -> Self:
        """Load every installed distribution that has an entry point in the group ``dskd_components``.

        Args:
            policy: which of them may be imported.
        """
        return cls(entry_points(group=PROJECT_NAME), policy)

    def _add(self, entry_point: EntryPoint, origin: Origin) -> None:
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

    @property
    def disabled(self) -> tuple[DisabledPlugin, ...]:
        """The plugins whose code was not imported because a rule forbids it."""
        return tuple(self._disabled)

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Every plugin that is installed, whether it is used or not."""
        used = {claim.origin: None for claims in self._found.values() for claim in claims}
        return (*used, *(broken.origin for broken in self._broken), *(found.origin for found in self._disabled))

    @property
    def taken_twice(self) -> tuple[tuple[ComponentInfo, ...], ...]:
        """The components that share kind and name, and so cannot be had by name; one tuple for each name."""
        takers = (sorted(claims, key=lambda info: info.distribution) for claims in self._found.values())
        return tuple(tuple(claims) for claims in takers if len(claims) > 1)

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
            UnknownComponentError: no plugin has it; the message has the nearest names, and the broken and the disabled
                plugins.
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

    def find(self, name: str, kind: str | None = None) -> tuple[ComponentInfo, ...]:
        """Return whatever is registered under a name, of one kind or of any.

        Args:
            name: the name that specs use.
            kind: ``"distance"``, ``"aligner"``, ``"projector"``, ``"space"``, ``"schedule"``, or None for all.

        Raises:
            UnknownComponentError: there is nothing; the message is that of `component_class`.
        """
        found = tuple(info for info in self.components(kind) if info.name == name)
        if not found:
            raise UnknownComponentError(self._unknown(kind, name))
        return found

    def _unknown(self, kind: str | None, name: str) -> str:
        known = sorted({known_name for known_kind, known_name in self._found if kind in (None, known_kind)})
        message = (
            f"unknown {kind or 'component'} {name!r}{did_you_mean(name, known)}; installed: "
            f"{', '.join(known) or 'none'}."
        )
        elsewhere = [KINDS[other].noun for other, other_name in self._found if other_name == name and other != kind]
        if elsewhere:
            message += f" {name!r} is the name of {' and of '.join(elsewhere)}."
        if self._broken:
            message += " These plugins were left out: " + "; ".join(broken.reason for broken in self._broken) + "."
        return message + self._disabled_hint(name)

    def _disabled_hint(self, name: str) -> str:
        """Say what a disabled plugin may have to do with an unknown name; what it offers is known to its code alone."""
        likely = [disabled for disabled in self._disabled if disabled.origin.plugin == name]
        if likely:
            return "".join(f" {one.origin} may have it, but is disabled by {one.rule.author}." for one in likely)
        if self._disabled:
            listed = "; ".join(f"{one.origin} by {one.rule.author}" for one in self._disabled)
            return f" These plugins are disabled, and what they offer is not known: {listed}."
        return ""
