"""``dskd doctor``: whether a student and its teachers fit together, and what a step costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from dskd_components.cli.pretrained import load_model, load_tokenizer
from dskd_components.cli.sample_files import columns_named, options_hint, read_samples
from dskd_components.cli.terminal import console, plain, plain_json
from dskd_components.errors import ConfigurationError, as_sentence, did_you_mean
from dskd_components.spec.dskd_spec import DSKDSpec
from dskd_components.spec.multi_teacher import MultiTeacherSpec
from dskd_components.spec.presets import PRESETS
from dskd_components.spec.reading import parse_spec, read_text

if TYPE_CHECKING:
    from dskd_components.preflight import PreflightReport

MOST_SAMPLES: Final = 1000
"""How many samples of a file are read."""


def doctor(
    student: Annotated[str, typer.Argument(help="Folder or hub name of the student.", show_default=False)],
    teachers: Annotated[
        list[str],
        typer.Argument(
            help="Folder or hub name of the teacher; NAME=FOLDER, once or more, with a spec of several teachers.",
            metavar="TEACHER...",
            show_default=False,
        ),
    ],
    spec: Annotated[
        str | None,
        typer.Option("--spec", help="A spec file or a preset; otherwise what is recommended.", show_default=False),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            "--samples",
            "--text",
            help="What to train on: .jsonl, .json, .csv, .tsv, .parquet, or text with blank lines between samples; the "
            f"first {MOST_SAMPLES:,} are read.",
            show_default=False,
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns", help="What its keys are called: prompt=question,response=answer.", show_default=False
        ),
    ] = None,
    ignore: Annotated[
        str | None, typer.Option("--ignore", help="Keys that are no part of samples: id,source.", show_default=False)
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", min=0, help="Student tokens in a step, for its cost; 0: measure nothing.")
    ] = 2048,
    student_tokens: Annotated[
        str | None,
        typer.Option(
            "--student-tokens",
            metavar="FILE",
            help="The ids of the tokens that the student's head is narrowed to in the loss: a JSON list, or numbers.",
            show_default=False,
        ),
    ] = None,
    teacher_tokens: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher-tokens",
            metavar="FILE",
            help="The same of the teacher's; NAME=FILE with several teachers.",
            show_default=False,
        ),
    ] = None,
    other_tokens: Annotated[
        str | None,
        typer.Option("--other-tokens", help="What becomes of all others: left_out or one_outcome.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Where all models run.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="For programs: JSON.")] = False,
) -> None:
    """Look at a student and a teacher before training. The exit code is 1 if there is an error among the findings."""
    pairs = _pairs(None if spec is None else read_spec(spec), teachers)
    given = _samples(samples, columns, ignore) | {
        "other_tokens": _others(other_tokens, narrows=bool(student_tokens or teacher_tokens))
    }
    if student_tokens is not None:
        given["student_tokens"] = _token_ids("--student-tokens", student_tokens)
    for each in teacher_tokens or ():
        name, file = ("", each) if "" in pairs else each.partition("=")[::2]
        if name not in pairs:
            raise ConfigurationError(
                f"--teacher-tokens {each}: expected NAME=FILE with one of the teachers {', '.join(map(repr, pairs))}."
            )
        if pairs[name].tokens is not None:
            whose = f"the teacher {name!r}" if name else "one teacher"
            raise ConfigurationError(f"--teacher-tokens: given twice for {whose}. Put all ids into one file.")
        pairs[name].tokens = _token_ids("--teacher-tokens", file)
    reports = _reports(student, pairs, given, tokens or None, device)
    passed = all(report.passed for report in reports.values())
    if as_json:
        by_teacher = {name: report.to_dict() for name, report in reports.items()}
        [first, *_] = by_teacher.values()
        plain_json(first if "" in by_teacher else by_teacher)
    else:
        for name, report in reports.items():
            _print(name, report)
    if not passed:
        raise typer.Exit(1)


def _print(teacher: str, report: PreflightReport) -> None:
    """Write a report, under the name of the teacher if there are several."""
    if teacher:
        console().print(Text(f"teacher {teacher}:", "bold"), soft_wrap=True)
    if console().is_terminal:
        console().print(report)
    else:
        plain(report.to_text())
    if hint := options_hint(finding.found for finding in report.findings):
        plain(hint)
    best = next((start for start in report.starts if start.recommended), None)
    if report.recommendation and best is not None:
        from dskd_components.preflight.report import recommended_fields

        plain(f"In a spec file: {json.dumps(recommended_fields(best))}")
    errors, warned = len(report.of_severity("error")), len(report.of_severity("warning"))
    style, word = ("bold green", "The pair can be trained") if report.passed else ("bold red", "It cannot be trained")
    console().print(Text(f"{word}: errors {errors}, warnings {warned}.", style), soft_wrap=True)


class _Wanted:
    """A teacher to look at.

    Args:
        source: its folder or name on the hub.
        spec: what is computed with it; None: what is recommended.
        last_step: from which on no weight changes any more, that of the teacher included.
    """

    def __init__(self, source: str, spec: DSKDSpec | None, last_step: int | None = None) -> None:
        self.source, self.spec, self.last_step = source, spec, last_step
        self.tokens: list[int] | None = None


def _reports(
    student: str, teachers: dict[str, _Wanted], given: dict[str, Any], tokens: int | None, device: str
) -> dict[str, PreflightReport]:
    from dskd_components.loss.dskd_loss import DSKDLoss
    from dskd_components.preflight import Pair, examine

    errors = console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("reading tokenizers", total=None)

        def watch(step: str) -> None:
            progress.update(task, description=f"looking at {step}")

        tokenizers = {
            source: load_tokenizer(source) for source in (student, *(one.source for one in teachers.values()))
        }
        progress.update(task, description="loading the student")
        student_model = load_model(student, device)
        reports = {}
        for name, wanted in teachers.items():
            progress.update(task, description=f"loading the teacher {name}".rstrip())
            pair = Pair(
                student=student_model,
                teacher=load_model(wanted.source, device),
                student_tokenizer=tokenizers[student],
                teacher_tokenizer=tokenizers[wanted.source],
                spec=wanted.spec,
                last_step=wanted.last_step,
                teacher_tokens=wanted.tokens,
                **given,
            )
            reports[name] = examine(DSKDLoss, pair, tokens_per_step=tokens, watch=watch)
            del pair  # one teacher at a time is in memory
        return reports


def _pairs(spec: DSKDSpec | MultiTeacherSpec | None, teachers: list[str]) -> dict[str, _Wanted]:
    """Return what is to be looked at, by the teacher's name in the spec, or the empty name for an only teacher."""
    if not isinstance(spec, MultiTeacherSpec):
        if len(teachers) > 1:
            raise ConfigurationError(
                f"TEACHER: expected one, got {len(teachers)}. Several need a spec that names them: --spec FILE, with "
                "the key 'teachers'."
            )
        name, equals, folder = teachers[0].partition("=")
        if equals and name.isidentifier() and not Path(teachers[0]).exists():
            raise ConfigurationError(
                f"TEACHER {teachers[0]}: a name is for a spec of several teachers. Give the folder alone: {folder}."
            )
        return {"": _Wanted(teachers[0], spec)}
    found = {}
    for each in teachers:
        name, equals, source = each.partition("=")
        if not equals or name not in spec.teachers:
            hint = did_you_mean(name, list(spec.teachers)) if equals else ""
            raise ConfigurationError(
                f"TEACHER {each}: the spec has the teachers {', '.join(map(repr, spec.teachers))}; say which one this "
                f"is{hint}: {next(iter(spec.teachers))}=FOLDER."
            )
        found[name] = _Wanted(source, spec.pair(name), spec.final_step if spec.scheduled else None)
    return found


def read_spec(name: str) -> DSKDSpec | MultiTeacherSpec:
    """Return the spec of a file, or a preset.

    Args:
        name: what was given for ``--spec``.

    Raises:
        ConfigurationError: there is neither.
        SpecFileError: the file is no valid spec.
    """
    if Path(name).is_file() or Path(name).suffix:
        text, syntax = read_text(name)
        return parse_spec(text, None, syntax=syntax, source=name)
    if name in PRESETS:
        return DSKDSpec.preset(name)
    raise ConfigurationError(
        f"--spec {name}: there is neither such a file nor such a preset ({', '.join(PRESETS)})"
        f"{did_you_mean(name, list(PRESETS))}."
    )


def _others(asked: str | None, *, narrows: bool) -> str | None:
    """Return what becomes of the tokens that a narrowed head leaves out, if that has a meaning here."""
    from dskd_components.models.vocabulary_subset import Others

    if asked is None:
        return None
    known = get_args(Others)
    if asked not in known:
        hint = did_you_mean(asked, known)
        raise ConfigurationError(f"--other-tokens {asked}: expected one of {', '.join(known)}{hint}.")
    if not narrows:
        raise ConfigurationError(
            "--other-tokens: no head is narrowed. Give --student-tokens or --teacher-tokens, or leave it out."
        )
    return asked


def _token_ids(option: str, path: str) -> list[int]:
    """Return the ids in a file: a JSON list, or numbers with spaces, commas or lines between them."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{option} {path}: cannot be read: {as_sentence(error)}") from error
    words = text.replace("[", " ").replace("]", " ").replace(",", " ").split()
    wrong = next((word for word in words if not word.isdecimal()), None)
    if wrong is not None or not words:
        found = "nothing" if wrong is None else repr(wrong)
        raise ConfigurationError(f"{option} {path}: expected ids of tokens, a JSON list or numbers, got {found}.")
    return [int(word) for word in words]


def _samples(path: Path | None, columns: str | None, ignore: str | None) -> dict[str, Any]:
    """Return what a `Pair` takes of a file of samples."""
    if path is None:
        for option, value in (("--columns", columns), ("--ignore", ignore)):
            if value is not None:
                raise ConfigurationError(f"{option}: there are no samples. Give --samples, or leave it out.")
        return {}
    named = columns_named(columns, ignore)
    try:
        found = read_samples(path, MOST_SAMPLES, named)
    except ConfigurationError as error:
        raise ConfigurationError(f"--samples {error}") from error
    return {
        "samples": [each.sample for each in found],
        "places": [each.place for each in found],
        "columns": named,
    }
