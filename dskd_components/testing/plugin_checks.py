"""`check_plugin`: every law of everything that a distribution registers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from dskd_components.components.lookup import default_registry
from dskd_components.errors import PluginError, did_you_mean
from dskd_components.testing.checks import require_examples
from dskd_components.testing.laws import laws_about
from dskd_components.testing.report import CheckReport, LawResult
from dskd_components.testing.trial import DEFAULT_EXAMPLES, component_label, result_of
from dskd_components.testing.variants import variants

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dskd_components.components.component import Component
    from dskd_components.components.registry import ComponentInfo, Registry
    from dskd_components.testing.law import Law

OPTIONS_ARE_UNDERSTOOD = "The component can be made: its options have defaults, or types that values can be chosen for."
PLUGIN_LOADS = "The plugin can be imported, and its hooks return component classes."
NAME_IS_ITS_OWN = "No other installed distribution registers the same name."


Watch = Callable[[str, int, int], None]
"""Told what is tried next, how much is done, and how much there is to do."""


def check_plugin(
    distribution: str, *, max_examples: int = DEFAULT_EXAMPLES, seed: int | None = None, watch: Watch | None = None
) -> CheckReport:
    """Try every law on everything that an installed distribution registers.

    Each component is tried with its defaults, and with other values of one option at a time on fewer cases.

    Args:
        distribution: name of the distribution, as in its ``pyproject.toml``.
        max_examples: on how many cases each law is tried.
        seed: draws other cases; None: the same ones each time.
        watch: called before each law of each component, for a progress bar.

    Returns:
        A result for each law and component, and for each plugin that could not be loaded.

    Raises:
        PluginError: no plugin of this distribution is installed.

    Examples:
        >>> report = check_plugin("dskd-divergences", max_examples=3)
        >>> report.raise_if_failed()
    """
    registry = default_registry()
    wanted = _canonical(distribution)
    infos = [info for info in registry.components() if _canonical(info.distribution) == wanted]
    results = [*_broken(registry, wanted), *_taken(registry, infos)]
    if not infos and not results:
        raise PluginError(_nothing_found(registry, distribution))
    results += check_classes([info.component for info in infos], max_examples=max_examples, seed=seed, watch=watch)
    return CheckReport(tuple(results))


def check_classes(
    classes: Iterable[type[Component]],
    *,
    max_examples: int = DEFAULT_EXAMPLES,
    seed: int | None = None,
    watch: Watch | None = None,
) -> Iterator[LawResult]:
    """Yield a result for each law of each class, tried as in `check_plugin`.

    Args:
        classes: concrete component classes, registered or not.
        max_examples: as in `check_plugin`.
        seed: as in `check_plugin`.
        watch: as in `check_plugin`.

    Examples:
        >>> from dskd_components.distances import KL
        >>> {result.outcome for result in check_classes([KL], max_examples=3)} <= {"passed", "not claimed"}
        True
    """
    require_examples(max_examples)
    # Other options run through the same code, so fewer cases show what they change.
    fewer = max(1, max_examples // 5)
    cases: list[tuple[Component, Law, int]] = []
    for cls in classes:
        try:
            components = variants(cls)
        except Exception as error:
            yield _not_made(cls, f"its constructor failed: {type(error).__name__}: {error}")
            continue
        if not components:
            yield _not_made(
                cls,
                "expected defaults, or options of type bool, int, float or Literal, found "
                f"{', '.join(cls.model_fields)}. Offer instances by a class method `examples`, or check one: "
                f"check_{cls.kind}(...).",
            )
        for number, component in enumerate(components):
            cases += [(component, law, fewer if number else max_examples) for law in laws_about(cls.kind)]
    for number, (component, law, examples) in enumerate(cases):
        if watch is not None:
            watch(f"{component_label(component)}: {law.name}", number, len(cases))
        yield replace(result_of(law, component, max_examples=examples, seed=seed), kind=component.kind)


def registered_variants(kind: str | None = None) -> tuple[Component, ...]:
    """Return everything that is registered, with its defaults and with other options.

    Args:
        kind: one kind of component; None: all.

    Examples:
        >>> sorted({component.kind for component in registered_variants()})
        ['aligner', 'distance', 'projector', 'schedule', 'space']
    """
    return tuple(made for info in default_registry().components(kind) for made in variants(info.component))


def _not_made(component: type[Component], why: str) -> LawResult:
    name = component.component_name()
    message = f"{component.kind} {name} was not tested.\n{why}"
    return LawResult(component.kind, name, "options_are_understood", OPTIONS_ARE_UNDERSTOOD, "failed", message)


def _broken(registry: Registry, wanted: str) -> Iterator[LawResult]:
    for broken in registry.broken:
        if _canonical(broken.origin.distribution) == wanted:
            message = f"plugin {broken.origin.plugin} was left out.\n{broken.reason}"
            yield LawResult("plugin", broken.origin.plugin, "the_plugin_loads", PLUGIN_LOADS, "failed", message)


def _taken(registry: Registry, infos: list[ComponentInfo]) -> Iterator[LawResult]:
    for info in infos:
        others = [
            str(other.origin)
            for other in registry.components(info.kind)
            if other.name == info.name and other.component is not info.component
        ]
        message = (
            f"{info.kind} {info.name!r} cannot be asked for.\nthe name is also taken by {' and by '.join(others)}."
        )
        if others:
            yield LawResult(info.kind, info.name, "the_name_is_its_own", NAME_IS_ITS_OWN, "failed", message)


def _nothing_found(registry: Registry, distribution: str) -> str:
    for disabled in registry.disabled:
        if _canonical(disabled.origin.distribution) == _canonical(distribution):
            return f"{disabled.origin} is disabled by {disabled.rule.author}, so it was not imported."
    known = {origin.distribution for origin in registry.origins}
    return (
        f"no installed plugin belongs to a distribution {distribution!r}{did_you_mean(distribution, sorted(known))}; "
        f"distributions with plugins: {', '.join(sorted(known))}. A distribution names its plugin in pyproject.toml "
        "under [project.entry-points.dskd_components], and must be installed."
    )


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
