"""The commands under their names, and what happens to errors and warnings of all of them."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Annotated

import typer

from dskd_components._version import __version__
from dskd_components.cli.check import check
from dskd_components.cli.doctor import doctor
from dskd_components.cli.list import list_installed
from dskd_components.cli.new_plugin import new_plugin
from dskd_components.cli.plan import plan
from dskd_components.cli.schema import print_schema
from dskd_components.cli.show import show
from dskd_components.cli.show_sample import show_sample
from dskd_components.cli.store import app as store
from dskd_components.cli.terminal import complain, plain, replace_what_cannot_be_written
from dskd_components.cli.validate import validate
from dskd_components.errors import DSKDError, DSKDWarning, PluginWarning

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    name="dskd",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Components of dual-space knowledge distillation: what is installed, whether a spec is valid, whether a "
    "plugin keeps its promises, whether two models fit together, what a step takes, what becomes of a sample; and a "
    "teacher's states on disk.",
)
app.command("list")(list_installed)
app.command("show")(show)
app.command("schema")(print_schema)
app.command("validate")(validate)
app.command("check")(check)
app.command("doctor")(doctor)
app.command("plan")(plan)
app.command("show-sample")(show_sample)
app.command("new-plugin")(new_plugin)
app.add_typer(store)


def _print_version(asked: bool) -> None:
    if asked:
        plain(f"dskd-components {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def run(arguments: Sequence[str] | None) -> None:
    """Run one command; the library's own errors are sentences for the user, not tracebacks.

    Args:
        arguments: what follows ``dskd``; None: what the user typed.
    """
    replace_what_cannot_be_written()
    with warnings.catch_warnings():
        warnings.simplefilter("always", PluginWarning)
        warnings.simplefilter("default", DSKDWarning)
        show_other = warnings.showwarning

        def show_warning(message: Warning | str, category: type[Warning], *where: object) -> None:
            if issubclass(category, PluginWarning | DSKDWarning):
                complain("warning", str(message))
            else:
                show_other(message, category, *where)  # type: ignore[arg-type]

        warnings.showwarning = show_warning  # type: ignore[assignment]
        try:
            app(args=None if arguments is None else list(arguments), prog_name="dskd")
        except DSKDError as error:
            complain("error", str(error))
            sys.exit(1)
