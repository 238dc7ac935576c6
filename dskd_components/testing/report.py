"""`CheckReport`: which laws hold, which do not, and which are not claimed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["passed", "failed", "not claimed"]
"""What came of a law."""


@dataclass(frozen=True)
class LawResult:
    """What came of one law for one component.

    Args:
        kind: ``"distance"``, ``"aligner"``, ``"projector"``, ``"space"`` or ``"schedule"``; ``"plugin"`` for what
            concerns the plugin as a whole.
        component: its name, with the options that are not at their defaults.
        law: the law's name.
        claim: what the law says, in a sentence.
        outcome: ``"passed"``, ``"failed"`` or ``"not claimed"``.
        message: for a failure, what was expected and found, on which values, and how to repeat it; else empty.
    """

    kind: str
    component: str
    law: str
    claim: str
    outcome: Outcome
    message: str = ""


@dataclass(frozen=True)
class CheckReport:
    """The results of a check, in the order in which the laws were tried.

    Args:
        results: one for each law and component.

    Examples:
        >>> report = CheckReport((LawResult("distance", "kl", "finite", "Values are finite.", "passed"),))
        >>> report.passed
        True
        >>> print(report)
        distance kl: 1 law holds
    """

    results: tuple[LawResult, ...]

    @property
    def passed(self) -> bool:
        """Whether no law failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[LawResult, ...]:
        """The results of the laws that failed."""
        return tuple(result for result in self.results if result.outcome == "failed")

    @property
    def causes(self) -> tuple[tuple[LawResult, ...], ...]:
        """The failures, those of one component together that have one cause: what it raised, word for word."""
        groups: dict[tuple[str, str, str], list[LawResult]] = {}
        for failure in self.failures:
            cause = failure.message.splitlines()[1] if failure.message.count("\n") else failure.message
            own = cause if cause.startswith("raised ") else failure.law
            groups.setdefault((failure.kind, failure.component, own), []).append(failure)
        return tuple(tuple(group) for group in groups.values())

    def raise_if_failed(self) -> None:
        """Raise an error with the text of every failure, if there is one.

        Raises:
            AssertionError: a law failed.
        """
        __tracebackhide__ = True
        if not self.passed:
            raise AssertionError("\n\n".join(described(cause) for cause in self.causes))

    def __str__(self) -> str:
        """Return a line for each component, and below it the laws that failed."""
        by_component: dict[tuple[str, str], list[LawResult]] = {}
        for result in self.results:
            by_component.setdefault((result.kind, result.component), []).append(result)
        return "\n".join(line for results in by_component.values() for line in _lines(results))


def described(cause: tuple[LawResult, ...]) -> str:
    """Return the text of failures that have one cause: that of the first, and the names of the other laws."""
    first, *others = cause
    names = ", ".join(other.law for other in others)
    return first.message + (f"\nThe same is raised in {len(others)} more: {names}." if others else "")


def _lines(results: list[LawResult]) -> list[str]:
    counts = {outcome: sum(result.outcome == outcome for result in results) for outcome in ("passed", "failed")}
    held = f"{counts['passed']} law{'s hold' if counts['passed'] != 1 else ' holds'}"
    unclaimed = [result.law for result in results if result.outcome == "not claimed"]
    parts = [held]
    if counts["failed"]:
        parts.append(f"{counts['failed']} failed")
    if unclaimed:
        parts.append(f"not claimed: {', '.join(unclaimed)}")
    failed = [f"  {result.law}: {result.message.splitlines()[1]}" for result in results if result.outcome == "failed"]
    return [f"{results[0].kind} {results[0].component}: {'; '.join(parts)}", *failed]
