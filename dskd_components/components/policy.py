"""Which plugins may be imported: rules from the environment and from Python, and the versions they were written for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from dskd_components._version import __version__
from dskd_components.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.metadata import Distribution, EntryPoint
    from typing import Self


DISABLE_VARIABLE: Final = "DSKD_DISABLE_PLUGINS"
ALLOW_VARIABLE: Final = "DSKD_ALLOW_PLUGINS"
BUILT_IN: Final = "dskd_components.builtin"
"""The module of the built-in components: importing it runs no third-party code, so nothing ever disables it."""

ALL: Final = frozenset({"1", "all", "true", "yes", "on"})
NONE: Final = frozenset({"", "0", "none", "false", "no", "off"})


@dataclass(frozen=True)
class Rule:
    """One list of distributions, and who wrote it.

    Args:
        distributions: canonical names.
        only: whether the plugins of these distributions are the only ones allowed; else they are those disabled.
        author: what a message names, such as ``"DSKD_DISABLE_PLUGINS=all"``.
    """

    distributions: frozenset[str]
    only: bool
    author: str

    @classmethod
    def of(cls, distributions: Iterable[str], *, only: bool, author: str) -> Self:
        """Return the rule for names written in any of the ways that installers accept."""
        return cls(frozenset(canonicalize_name(name.strip()) for name in distributions), only, author)

    def forbids(self, distribution: str) -> bool:
        """Whether the plugins of a distribution must not be imported."""
        return (canonicalize_name(distribution) in self.distributions) != self.only


@dataclass(frozen=True)
class PluginPolicy:
    """All rules that are in force; a plugin is imported if none forbids it, so each rule can only take away.

    Examples:
        >>> policy = PluginPolicy.of_environment({"DSKD_DISABLE_PLUGINS": "some-plugin"})
        >>> policy.rule_against("Some_Plugin").author
        'DSKD_DISABLE_PLUGINS=some-plugin'
        >>> policy.rule_against("another-plugin") is None
        True
    """

    rules: tuple[Rule, ...] = ()

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read ``DSKD_DISABLE_PLUGINS`` and ``DSKD_ALLOW_PLUGINS``.

        The first is ``1`` or ``all``, or names of distributions with commas between them. The second is the names of
        the only distributions allowed; set but empty, it allows none, so that a mistake loads too little, not too much.
        """
        rules = []
        disabled = environment.get(DISABLE_VARIABLE, "").strip()
        author = f"{DISABLE_VARIABLE}={disabled}"
        if disabled.lower() in ALL:
            rules.append(Rule(frozenset(), only=True, author=author))
        elif disabled.lower() not in NONE:
            rules.append(Rule.of(_names(disabled), only=False, author=author))
        allowed = environment.get(ALLOW_VARIABLE)
        if allowed is not None:
            rules.append(Rule.of(_names(allowed), only=True, author=f"{ALLOW_VARIABLE}={allowed.strip()}"))
        return cls(tuple(rules))

    @classmethod
    def of_arguments(cls, *, allow: Iterable[str] | None, disable: Iterable[str]) -> Self:
        """Return what a program asks for; see `use_plugins`.

        Raises:
            ConfigurationError: an argument is not a list of names.
        """
        rules = []
        if allow is not None:
            allowed = _checked("allow", allow)
            rules.append(Rule.of(allowed, only=True, author=f"use_plugins(allow={allowed!r})"))
        disabled = _checked("disable", disable)
        if disabled:
            rules.append(Rule.of(disabled, only=False, author=f"use_plugins(disable={disabled!r})"))
        return cls(tuple(rules))

    def __add__(self, other: PluginPolicy) -> PluginPolicy:
        return PluginPolicy(self.rules + other.rules)

    def rule_against(self, distribution: str) -> Rule | None:
        """Return the first rule that forbids the plugins of a distribution."""
        return next((rule for rule in self.rules if rule.forbids(distribution)), None)

    @property
    def named(self) -> tuple[str, ...]:
        """Every distribution that some rule names, in canonical spelling."""
        return tuple(sorted({name for rule in self.rules for name in rule.distributions}))


NO_RULES: Final = PluginPolicy()
"""Every installed plugin may be imported."""


def is_built_in(entry_point: EntryPoint) -> bool:
    """Whether an entry point names the built-in components, whichever distribution it claims to come from."""
    return entry_point.value == BUILT_IN


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name.strip()]


def _checked(argument: str, names: object) -> list[str]:
    listed = list(names) if isinstance(names, Iterable) and not isinstance(names, (str, bytes)) else None
    if listed is None or not all(isinstance(name, str) for name in listed):
        raise ConfigurationError(
            f'use_plugins: expected {argument} to be a list of names of distributions, such as ["dskd-divergences"], '
            f"got {argument}={names!r}."
        )
    return listed


LIBRARY: Final = "dskd-components"


def unmet_requirement(distribution: Distribution, *, library_version: str = __version__) -> str | None:
    """Return the requirement on this library that the installed version does not meet, or None.

    Installers check it too, but not with ``--no-deps``, nor when the library alone is replaced later. It is checked
    before the plugin is imported, so the report is a sentence and not whichever import happens to fail.

    Args:
        distribution: the plugin's distribution.
        library_version: the version to compare with.
    """
    for text in distribution.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:  # the installer's business: what it says of this library cannot be known
            continue
        concerns_us = canonicalize_name(requirement.name) == LIBRARY
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if concerns_us and applies and not requirement.specifier.contains(library_version, prereleases=True):
            return f"{LIBRARY}{requirement.specifier}"
    return None
