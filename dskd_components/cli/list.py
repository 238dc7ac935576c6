"""``dskd list``: everything installed, and every plugin that is not used, with the reason."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from packaging.utils import canonicalize_name
from rich.text import Text

from dskd_components.cli.options import claims_of
from dskd_components.cli.terminal import console, plain_json, row, table
from dskd_components.components.lookup import default_registry
from dskd_components.errors import PluginWarning, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from dskd_components.components.registry import Registry

UNBROKEN_WIDTH: Final = 160
"""From this width on, each component is one line with everything in it; below, rows are grouped and shortened."""
AUTHORS_WIDTH: Final = 110
"""From this width on, the authors of a paper have a place beside its number."""


def list_installed(
    kind: Annotated[
        str | None,
        typer.Argument(help="Only one kind: distance, aligner, projector, space or schedule.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: JSON, nothing shortened.")] = False,
) -> None:
    """List the installed components, and the plugins that are broken, disabled or in each other's way."""
    with warnings.catch_warnings():
        # What is broken has its place below the table.
        warnings.simplefilter("ignore", PluginWarning)
        registry = default_registry()
    if as_json:
        plain_json(_for_programs(registry, kind))
        return
    out = console()
    _print_components(out, registry, kind)
    _print_unused(out, registry)


def _for_programs(registry: Registry, kind: str | None) -> dict[str, Any]:
    return {
        "components": [
            {
                "kind": info.kind,
                "name": info.name,
                "distribution": info.distribution,
                "version": info.version,
                "plugin": info.origin.plugin,
                "class": f"{info.component.__module__}.{info.component.__qualname__}",
                "claims": claims_of(info.component),
                "source": info.component.source,
                "summary": info.summary,
            }
            for info in registry.components(kind)
        ],
        "broken": [{**vars(broken.origin), "reason": broken.reason} for broken in registry.broken],
        "disabled": [{**vars(disabled.origin), "by": disabled.rule.author} for disabled in registry.disabled],
        "taken_twice": [
            {"kind": claims[0].kind, "name": claims[0].name, "by": [vars(info.origin) for info in claims]}
            for claims in registry.taken_twice
        ],
        "not_installed": list(_not_installed(registry)),
    }


def _print_components(out: Console, registry: Registry, kind: str | None) -> None:
    infos = registry.components(kind)
    taken = {(claims[0].kind, claims[0].name) for claims in registry.taken_twice}
    names = [Text(info.name, "red" if (info.kind, info.name) in taken else "bold") for info in infos]
    claims = [", ".join(claims_of(info.component)) for info in infos]
    if out.width >= UNBROKEN_WIDTH:
        listed = table("kind", "name", "distribution", "version", "claims", "source")
        for info, name, claim in zip(infos, names, claims, strict=True):
            row(listed, [info.kind, name, info.distribution, info.version, claim, info.component.source])
        out.print(listed)
        return
    listed = table({"header": "name", "no_wrap": True}, {"header": "from", "no_wrap": True}, "claims", "source")
    before = ""
    for info, name, claim in zip(infos, names, claims, strict=True):
        if info.kind != before:
            if before:
                row(listed, [""] * 4)
            before = info.kind
            row(listed, [Text(info.kind, "cyan"), "", "", ""])
        row(listed, [Text.assemble("  ", name), info.distribution, claim, _paper(info.component.source, out.width)])
    out.print(listed)
    used = sorted({(info.distribution, info.version) for info in infos})
    out.print()
    out.print(Text(f"Versions: {', '.join(map(' '.join, used))}", "dim"))


def _paper(source: str, width: int) -> str:
    """Return as much of the paper as there is room for; ``dskd show`` has section and equation."""
    authors_too = r".*?arXiv \d{4}\.\d{4,5}"
    found = re.search(authors_too if width >= AUTHORS_WIDTH else r"arXiv \d{4}\.\d{4,5}", source)
    return found.group() if found else re.split("[;,]", source)[0]


def _print_unused(out: Console, registry: Registry) -> None:
    for claims in registry.taken_twice:
        takers = " and ".join(f"{info.distribution} {info.version}" for info in claims)
        _note(out, "taken twice", f"{claims[0].kind} {claims[0].name!r} by {takers}; it cannot be used by name")
    for broken in registry.broken:
        _note(out, "broken", broken.reason)
    for disabled in registry.disabled:
        _note(out, "disabled", f"{disabled.origin}, by {disabled.rule.author}")
    for sentence in _not_installed(registry).values():
        _note(out, "not installed", sentence)


def _note(out: Console, what: str, text: str) -> None:
    out.print()
    out.print(Text.assemble((f"{what}: ", "bold yellow"), text))


def _not_installed(registry: Registry) -> dict[str, str]:
    """Return the names in the rules that no plugin has: a misspelt one keeps nothing out, or everything."""
    installed = sorted({origin.distribution for origin in registry.origins})
    return {
        name: f"{name}, which {rule.author} names{did_you_mean(name, installed)}"
        for rule in registry.policy.rules
        for name in sorted(rule.distributions - {canonicalize_name(other) for other in installed})
    }
