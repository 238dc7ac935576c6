"""``dskd new-plugin``: a distribution with one distance that keeps every law, to be changed into the author's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from dskd_components.cli.plugin_project import PluginProject
from dskd_components.cli.terminal import console


def new_plugin(
    name: Annotated[str, typer.Argument(help="Name of the distribution, such as hello-distance.", show_default=False)],
    directory: Annotated[
        Path, typer.Option("--directory", "-d", help="The folder in which to make the distribution's own.")
    ] = Path(),
) -> None:
    """Write a complete plugin: one distance with its package, test, and README; it passes `dskd check` as it is."""
    project = PluginProject.named(name)
    folder = directory / project.distribution
    project.write(folder)
    out = console()
    out.print(
        Text.assemble("Wrote ", (f"{folder}/", "bold"), f" with the distance {project.component!r}:"), soft_wrap=True
    )
    for path in sorted(project.files()):
        out.print(Text(f"  {path}"), soft_wrap=True)
    out.print()
    out.print(Text("Next:"))
    for command in (
        f"pip install --editable {folder if folder.is_absolute() else f'./{folder}'}",
        f"dskd check {project.distribution}",
        f"dskd show {project.component}",
    ):
        out.print(Text(f"  {command}", "cyan"), soft_wrap=True)
