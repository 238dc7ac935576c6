"""``dskd check``: the laws for installed plugins or for one file, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from dskd_components.cli.python_file import components_in_file
from dskd_components.cli.terminal import console, row, table
from dskd_components.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from rich.console import Console

    from dskd_components.testing import CheckReport, LawResult


CLAIMS_WIDTH: Final = 110
"""From this width on, there is room for a law's claim beside its name."""


def print_report(out: Console, report: CheckReport) -> None:
    """Print which laws hold for which components.

    Args:
        out: where to.
        report: of a check.
    """
    from dskd_components.testing.report import described

    for kind in dict.fromkeys(result.kind for result in report.results):
        of_kind = [result for result in report.results if result.kind == kind]
        components = list(dict.fromkeys(result.component for result in of_kind))
        out.print(Text.assemble((f"{kind}: ", "bold"), ", ".join(components)))
        out.print()
        with_claims = out.width >= CLAIMS_WIDTH
        laws = table({"header": "result"}, {"header": "law", "no_wrap": True}, *(["claim"] if with_claims else []))
        for results in _by_law(of_kind):
            first = results[0]
            row(laws, [_outcome(results), first.law, *([first.claim.replace("``", "")] if with_claims else [])])
        out.print(Padding(laws, (0, 0, 0, 2)))
        out.print()
    for cause in report.causes:
        failure = cause[0]
        more = f" and {len(cause) - 1} more" if cause[1:] else ""
        title = f"{failure.kind} {failure.component}: {failure.law}{more}"
        out.print(Text.assemble(("✗ ", "bold red"), (title, "bold")))
        out.print(Padding(Text(described(cause)), (0, 0, 1, 2)))


def _by_law(results: Sequence[LawResult]) -> Iterator[list[LawResult]]:
    for law in dict.fromkeys(result.law for result in results):
        yield [result for result in results if result.law == law]


def _outcome(results: Sequence[LawResult]) -> Text:
    """Say for how many of the components a law holds, fails, or is not claimed."""
    counts = {outcome: sum(result.outcome == outcome for result in results) for outcome in ("failed", "passed")}
    if counts["failed"]:
        failed = [result.component for result in results if result.outcome == "failed"]
        return Text(f"✗ {', '.join(failed)}", "red")
    if counts["passed"]:
        return Text(f"✓ {counts['passed']} of {len(results)}" if counts["passed"] < len(results) else "✓", "green")
    return Text("not claimed", "dim")


def check(
    target: Annotated[
        str,
        typer.Argument(
            help="An installed distribution, or a Python file, which is run to find the components that it defines.",
            metavar="DISTRIBUTION_OR_FILE",
            show_default=False,
        ),
    ],
    max_examples: Annotated[
        int, typer.Option("--max-examples", "-n", min=1, help="On how many cases each law is tried.")
    ] = 50,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Draw other cases; without it they are the same ones each time.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Where the cases are made: cuda, for example.")] = "cpu",
) -> None:
    """Try every law on a plugin's components. The exit code is 1 if one does not hold."""
    _require_testing_extra()
    place = _device(device)
    errors = console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("looking", total=None)

        def watch(label: str, number: int, total: int) -> None:
            progress.update(task, description=label, completed=number, total=total)

        with place:
            report = _report(target, max_examples, seed, watch)
    out = console()
    print_report(out, report)
    laws = sum(result.outcome != "not claimed" for result in report.results)
    if not report.passed:
        failed = sum(result.outcome == "failed" for result in report.results)
        out.print(Text(f"{target}: {failed} of {laws} results are failures.", "bold red"), soft_wrap=True)
        raise typer.Exit(1)
    out.print(Text(f"{target}: every law holds ({laws} results).", "bold green"), soft_wrap=True)


def _device(name: str) -> torch.device:
    """Return a device that tensors can be made on.

    Raises:
        ConfigurationError: there is none of that name here.
    """
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigurationError(
            f"--device {name}: expected a device that this PyTorch can use, such as cpu or cuda: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return torch.device(name)


def _require_testing_extra() -> None:
    try:
        import dskd_components.testing  # noqa: F401
    except ModuleNotFoundError as error:
        if str(error.name).startswith("dskd_components"):
            raise
        raise ConfigurationError(
            f"`dskd check` needs {error.name!r}, which is not installed: "
            'pip install "dskd-components[testing]" brings it along.'
        ) from error


def _report(target: str, max_examples: int, seed: int | None, watch: Callable[[str, int, int], None]) -> CheckReport:
    from dskd_components.testing import check_classes, check_plugin
    from dskd_components.testing.report import CheckReport

    path = Path(target)
    if path.suffix != ".py" and not path.is_file():
        return check_plugin(target, max_examples=max_examples, seed=seed, watch=watch)
    classes = components_in_file(path)
    return CheckReport(tuple(check_classes(classes, max_examples=max_examples, seed=seed, watch=watch)))
