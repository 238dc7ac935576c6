"""``dskd show``: what one component is and what can be set."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from dskd_components.cli.options import Option, claims_of, options_of
from dskd_components.cli.terminal import code_text, console
from dskd_components.cli.validate import preset_hint
from dskd_components.components.lookup import default_registry
from dskd_components.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, RenderableType

    from dskd_components.components.registry import ComponentInfo

SPEC_FIELDS = {"projector": "t2s_projector", "space": "spaces", "schedule": "kd_rate"}


def show(
    name: Annotated[str, typer.Argument(help="The name that specs use.", show_default=False)],
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="Which kind, if several have this name.", metavar="KIND", show_default=False),
    ] = None,
) -> None:
    """Show one component: what it computes, its options, its claims, and where it comes from."""
    if preset_hint(name):
        raise ConfigurationError(preset_hint(name))
    found = default_registry().find(name, kind)
    kinds = list(dict.fromkeys(info.kind for info in found))
    if len(kinds) > 1:
        raise ConfigurationError(
            f"{name!r} is the name of {' and of '.join(f'the {kind}' for kind in kinds)}; say which with "
            f"{' or '.join(f'--kind {kind}' for kind in kinds)}."
        )
    out = console()
    for number, info in enumerate(found):
        if number:
            out.print()
        _print(out, info, taken_twice=len(found) > 1)


def _print(out: Console, info: ComponentInfo, *, taken_twice: bool) -> None:
    origin = f"  {info.distribution} {info.version}"
    out.print(Text.assemble(f"{info.kind} ", (info.name, "bold"), (origin, "dim")))
    if taken_twice:
        out.print(Text("Other distributions have this name too, so it cannot be used by name.", "yellow"))
    description = _description(info)
    for paragraph in description:
        out.print()
        out.print(Padding(code_text(paragraph), (0, 0, 0, 2)))
    for title, content in _facts(info, description):
        out.print()
        out.print(Text(title, "bold"))
        out.print(Padding(content, (0, 0, 0, 2)))


def _facts(info: ComponentInfo, description: list[str]) -> Iterator[tuple[str, RenderableType]]:
    formula = re.search(r"``(.+?)``", description[0]) if description else None
    if formula:
        yield "Formula", Text(formula.group(1), "cyan")
    options = options_of(info.component)
    if options:
        yield "Options", Group(*(part for option in options for part in _option(option)))
    claims = claims_of(info.component)
    if claims:
        yield "Claims", Text(", ".join(claims))
    if info.component.source:
        yield "Source", Text(info.component.source)
    required = [f"{option.name}: ..." for option in options if option.default == "required"]
    value = f"{{{', '.join([f'name: {info.name}', *required])}}}" if required else info.name
    field = SPEC_FIELDS.get(info.kind, info.kind)
    yield "In a spec file", Text(f"{field}: {f'[{value}]' if info.kind == 'space' else value}", "cyan")


def _option(option: Option) -> Iterator[RenderableType]:
    default = option.default if option.default == "required" else f"default {option.default}"
    yield Text.assemble((option.name, "cyan"), f": {option.type}, ", default)
    if option.meaning:
        yield Padding(code_text(option.meaning), (0, 0, 0, 4))


def _description(info: ComponentInfo) -> list[str]:
    """Return the paragraphs of the component's own docstring, without its examples."""
    text, *_ = re.split(
        r"^(?:Examples?|References?|Args|Attributes):", inspect.cleandoc(info.component.__doc__ or ""), flags=re.M
    )
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip()]
