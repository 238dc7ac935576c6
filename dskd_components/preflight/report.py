"""What was found out about a pair of models."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from dskd_components.errors import ConfigurationError
from dskd_components.spec.dskd_spec import DSKDSpec
from dskd_components.spec.presets import PRESETS

if TYPE_CHECKING:
    from rich.console import RenderableType


Severity = Literal["error", "warning", "ok"]
"""Training cannot work; training works, but likely not as meant; nothing to do."""

SIGNS: Final = {"error": "✗", "warning": "!", "ok": "✓"}
STYLES: Final = {"error": "bold red", "warning": "bold yellow", "ok": "green"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        severity: how bad it is.
        component: what was looked at, in a word or two.
        found: what is so.
        advice: what to do; empty if there is nothing to do.
    """

    severity: Severity
    component: str
    found: str
    advice: str = ""


SANE: Final = 1.05
"""Up to this multiple of a uniform guess, ``t2s_ce_covered`` starts sanely: the projector has little to unlearn."""


@dataclass(frozen=True)
class Start:
    """What is read from projected states before any training, with one choice of aligner and projectors.

    Args:
        aligner: its name.
        t2s_projector: the name of what maps the teacher's states into the student's space; None: nothing does.
        s2t_projector: of what maps the student's into the teacher's.
        t2s_ce_covered: in nats, a mean over the covered tokens, as the metric of this name: cross entropy of the
            labels, as the student's head reads them from the teacher's projected states. The term ``t2s_ce`` of a loss
            divides by all scored tokens instead.
        t2s_uniform: the same of a uniform guess: the logarithm of the student's vocabulary.
        kept: share of the covered tokens whose label is what the projected teacher predicts, which is what the filter
            ``correct`` keeps.
        covered: share of the student's scored tokens to which something of the teacher belongs.
        s2t_kd_covered: in nats, a mean over the teacher's covered tokens: forward KL from the teacher to the student's
            projected states, as the teacher's head reads them.
        s2t_uniform: the logarithm of the teacher's vocabulary, which the same of a uniform guess never exceeds.
        of_spec: whether it is the choice of the spec that was given.
        recommended: whether it is the choice that is recommended.
        direct_space: of the recommended choice, the space without a projector that is recommended: with one tokenizer
            beside the two with a projector, with two instead of them; None: none is, because it does not fit the pair.
    """

    aligner: str
    t2s_projector: str | None
    s2t_projector: str | None
    t2s_ce_covered: float | None
    t2s_uniform: float
    kept: float | None
    covered: float
    s2t_kd_covered: float | None
    s2t_uniform: float
    of_spec: bool = False
    recommended: bool = False
    direct_space: str | None = None

    @property
    def is_sane(self) -> bool:
        """Whether neither head reads much worse than a uniform guess."""
        return self.reads_sanely and (self.s2t_kd_covered is None or self.s2t_kd_covered <= SANE * self.s2t_uniform)

    @property
    def reads_sanely(self) -> bool:
        """Whether the student's head does not read much worse than a uniform guess."""
        return self.t2s_ce_covered is None or self.t2s_ce_covered <= SANE * self.t2s_uniform

    @property
    def known(self) -> float:
        """By how many nats a scored token of the student the projected teacher is better than a uniform guess."""
        return -math.inf if self.t2s_ce_covered is None else self.covered * (self.t2s_uniform - self.t2s_ce_covered)


Basis = Literal["measured", "scaled from a measured step", "arithmetic"]


@dataclass(frozen=True)
class StepCost:
    """The cost of one component of a training step.

    Args:
        component: what costs it.
        seconds: time; 0 for what is only held.
        bytes: memory: what is held throughout, or for a part of the step the most that is there beside that while it
            runs; of the whole step, the most that is there at once.
        basis: how it is known.
    """

    component: str
    seconds: float
    bytes: int
    basis: Basis


@dataclass(frozen=True)
class PreflightReport:
    """All findings about a pair, the cost of a step, and which spec is for it.

    Args:
        findings: in the order in which they were made.
        costs: by component, of one training step; empty if that was not or could not be measured.
        recommendation: the spec for this pair, in words.
        starts: how training would start with each sensible choice of aligner and projectors; empty if that could not
            be measured.

    Examples:
        >>> report = PreflightReport((Finding("warning", "teacher", "is in training mode", "call teacher.eval()"),))
        >>> report.passed
        True
        >>> print(report.to_text())
        ! teacher: is in training mode. Do: call teacher.eval().
    """

    findings: tuple[Finding, ...]
    costs: tuple[StepCost, ...] = ()
    recommendation: str = ""
    starts: tuple[Start, ...] = ()

    @property
    def recommended_spec(self) -> DSKDSpec | None:
        """The spec to begin with, all else by default; None if no start was measured, or there are errors."""
        return recommended_spec(self.starts) if self.passed else None

    @property
    def passed(self) -> bool:
        """Whether there is no error."""
        return not self.of_severity("error")

    def of_severity(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def raise_if_failed(self) -> None:
        """Stop if training cannot work.

        Raises:
            ConfigurationError: there are errors; the message has all of them, with what to do.
        """
        if not self.passed:
            lines = "\n".join(f"  {_sentence(finding)}" for finding in self.of_severity("error"))
            raise ConfigurationError(f"The pair of models cannot be trained as it is:\n{lines}")

    def to_text(self) -> str:
        """Return everything as plain text, a line for each finding and each cost."""
        lines = [f"{SIGNS[finding.severity]} {_sentence(finding)}" for finding in self.findings]
        for start in self.starts:
            name, *cells, note = start_cells(start)
            named = [f"{header} {cell}" for header, cell in zip(START_HEADERS, cells, strict=True)]
            lines.append(f"  start of {name}: {', '.join(named)}" + (f" ({note})" if note else ""))
        lines += [
            f"  {cost.component}: {seconds_text(cost)}, {memory_text(cost)} ({cost.basis})" for cost in self.costs
        ]
        return "\n".join([*lines, *([self.recommendation] if self.recommendation else [])])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, for JSON; the recommended spec as spec files have it, or None."""
        spec = self.recommended_spec
        recommended = None if spec is None else spec.model_dump(mode="json")
        return {"passed": self.passed, **asdict(self), "recommended_spec": recommended}

    def __rich__(self) -> RenderableType:
        """Return everything as tables for `rich.print`."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        findings = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
        for header in ("", "what", "found"):
            findings.add_column(header, no_wrap=header != "found")
        for finding in self.findings:
            style = STYLES[finding.severity]
            advice = (f"\n→ {finding.advice}", style) if finding.advice else ""
            sign = Text(SIGNS[finding.severity], style)
            findings.add_row(sign, Text(finding.component), Text.assemble(finding.found, advice))
        parts: list[RenderableType] = [findings]
        if self.starts:
            starts = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
            for header in ("a start", *START_HEADERS, ""):
                starts.add_column(header)
            for start in self.starts:
                starts.add_row(*map(Text, start_cells(start)), style="bold" if start.recommended else "")
            parts += ["", starts]
        if self.costs:
            costs = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
            for header in ("a training step", "time", "memory", "how it is known"):
                costs.add_column(header)
            for cost in self.costs:
                costs.add_row(*map(Text, (cost.component, seconds_text(cost), memory_text(cost), cost.basis)))
            parts += ["", costs]
        if self.recommendation:
            parts += ["", Text(self.recommendation, "bold")]
        return Group(*parts)


def recommended_spec(starts: tuple[Start, ...]) -> DSKDSpec | None:
    """Return the spec that is recommended; None if nothing was measured.

    Args:
        starts: what was measured.
    """
    found = next((start for start in starts if start.recommended), None)
    return None if found is None else DSKDSpec(**recommended_fields(found))


def recommended_fields(start: Start) -> dict[str, Any]:
    """Return the fields of the spec that is recommended, but for defaults.

    With two tokenizers that is no dual space, where the tokens that both vocabularies have can be compared: see
    docs/explanation/evidence.md.

    Args:
        start: the choice that is recommended.
    """
    if start.aligner == "identity" or start.direct_space is None:
        return spec_fields(start)
    return {**PRESETS["recommended-two-vocabularies"], "aligner": start.aligner, "spaces": [start.direct_space]}


def spec_fields(start: Start) -> dict[str, Any]:
    """Return the fields of a spec that starts as was measured, but for defaults.

    Args:
        start: a choice of aligner and projectors.
    """
    of_two = start.aligner != "identity"
    projectors = {"t2s_projector": start.t2s_projector, "s2t_projector": start.s2t_projector}
    beside = not of_two and start.direct_space is not None
    return {
        **({"aligner": start.aligner} if of_two else {}),
        **{name: value for name, value in projectors.items() if value is not None and value != "pinv"},
        **({"spaces": [start.direct_space, "student", "teacher"]} if beside else {}),
    }


def _sentence(finding: Finding) -> str:
    return f"{finding.component}: {finding.found}." + (f" Do: {finding.advice}." if finding.advice else "")


START_HEADERS: Final = ("t2s_ce_covered", "kept", "covered", "s2t_kd_covered")
"""What is shown of a start; in nats a covered token, of those of a uniform guess."""


def start_cells(start: Start) -> tuple[str, ...]:
    """Return what was measured of one start, a cell of a table each."""
    projectors = dict.fromkeys(name for name in (start.t2s_projector, start.s2t_projector) if name is not None)
    return (
        f"{start.aligner} with {' and '.join(projectors)}",
        "-" if start.t2s_ce_covered is None else f"{start.t2s_ce_covered:.2f} of {start.t2s_uniform:.2f}",
        "-" if start.kept is None else f"{start.kept:.1%}",
        f"{start.covered:.1%}",
        "-" if start.s2t_kd_covered is None else f"{start.s2t_kd_covered:.2f} of {start.s2t_uniform:.2f}",
        "recommended" if start.recommended else "as in the spec" if start.of_spec else "",
    )


def seconds_text(cost: StepCost) -> str:
    """Return the time of a cost for people; a dash where there is none."""
    return "-" if math.isclose(cost.seconds, 0.0) else seconds_of(cost.seconds)


def seconds_of(seconds: float) -> str:
    """Return a time for people."""
    if seconds >= 10:
        return f"{seconds:,.0f} s"
    return f"{seconds:.2g} s" if seconds >= 0.1 else f"{seconds * 1000:.2g} ms"


def memory_text(cost: StepCost) -> str:
    """Return the memory of a cost for people; a dash where there is none."""
    return size_text(cost.bytes) if cost.bytes else "-"


def size_text(size: int) -> str:
    """Return a number of bytes for people."""
    mebibytes = size / 2**20
    return f"{mebibytes / 1024:.2f} GiB" if mebibytes >= 1024 else f"{mebibytes:.3g} MiB"
