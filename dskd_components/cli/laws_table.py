"""A check's report on the terminal: a table of laws for each kind of component, then every failure in full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.padding import Padding
from rich.text import Text

from dskd_components.cli.terminal import row, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    for failure in report.failures:
        out.print(Text.assemble(("✗ ", "bold red"), (f"{failure.kind} {failure.component}: {failure.law}", "bold")))
        out.print(Padding(Text(failure.message), (0, 0, 1, 2)))


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
