"""``dskd show-sample``: what becomes of samples in tokens, without a model."""

from __future__ import annotations

import os
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from dskd_components.cli.pretrained import load_tokenizer
from dskd_components.cli.sample_files import columns_named, options_hint, read_samples
from dskd_components.cli.terminal import complain, console, plain, plain_html, plain_json
from dskd_components.errors import ConfigurationError, DSKDWarning, InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dskd_components.collation import MultiTeacherSampleView, SampleView

WIDTH: Final = 100
"""Of what is written into a pipe."""


class Form(StrEnum):
    """How samples are written."""

    TEXT = "text"
    HTML = "html"
    JSON = "json"


def show_sample(
    samples: Annotated[
        str,
        typer.Argument(
            help="Samples: .jsonl, .json, .csv, .tsv, .parquet, or text with blank lines between them; - reads the "
            "standard input.",
            metavar="SAMPLES",
            show_default=False,
        ),
    ],
    student: Annotated[
        str, typer.Option("--student", help="Folder or hub name of the student's tokenizer.", show_default=False)
    ],
    teacher: Annotated[
        list[str],
        typer.Option(
            "--teacher", help="The teacher's; NAME=TOKENIZER, several times, for several.", show_default=False
        ),
    ],
    aligner: Annotated[
        list[str] | None,
        typer.Option(
            "--aligner",
            help="The aligner of the loss; NAME=ALIGNER, several times, for several teachers. Otherwise exact_match.",
            show_default=False,
        ),
    ] = None,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many samples are shown.")] = 3,
    start: Annotated[int, typer.Option("--start", min=0, help="Which sample is the first, counted from 0.")] = 0,
    form: Annotated[
        Form,
        typer.Option("--format", help="Text for people, a page, or JSON with a line for each sample."),
    ] = Form.TEXT,
    student_max_length: Annotated[
        int | None, typer.Option("--student-max-length", min=1, help="Where samples are cut.", show_default=False)
    ] = None,
    teacher_max_length: Annotated[
        int | None, typer.Option("--teacher-max-length", min=1, help="Of each teacher.", show_default=False)
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", help="What keys are called: prompt=question,response=answer.", show_default=False),
    ] = None,
    ignore: Annotated[
        str | None,
        typer.Option("--ignore", help="Keys that are no part of samples: id,source.", show_default=False),
    ] = None,
    train_on_prompt: Annotated[
        bool, typer.Option("--train-on-prompt", help="Score prompts and messages of all roles.")
    ] = False,
    append_eos: Annotated[
        bool, typer.Option("--append-eos/--no-append-eos", help="Whether texts and responses end with EOS.")
    ] = True,
) -> None:
    """Show samples as the collator reads them: both rows of tokens, what is scored and paired, and why not the rest.

    Below the rows: ━ scored; between them: ┃ a pair, ╂ a group of several, ✗ scored without a partner.
    """
    named = columns_named(columns, ignore)
    raws = [placed.sample for placed in read_samples(Path(samples), start + number, named)][start:]
    if not raws:
        raise ConfigurationError(f"{samples}: there is no sample {start}; the first one is sample 0.")
    show = _shower(
        student,
        teacher,
        aligner or [],
        teacher_max_length,
        student_max_length=student_max_length,
        train_on_prompt=train_on_prompt,
        append_eos=append_eos,
        columns=named,
    )
    failed = []
    if form is Form.HTML:
        plain('<!DOCTYPE html>\n<meta charset="utf-8">')
    for index, raw in enumerate(raws, start=start):
        place = f"{samples}: sample {index}"
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", DSKDWarning)
                view = show(raw)
        except InputError as error:
            failed.append(_unnumbered(error))
            complain("error", f"{place}: {failed[-1]}")
            continue
        for warning in caught:
            complain("warning", f"{place}: {_unnumbered(warning.message)}")
        _write(view, place, index, form, is_first=index == start)
    if failed:
        if hint := options_hint(failed):
            console(stderr=True).print(Text(hint), soft_wrap=True)
        raise typer.Exit(1)


def _unnumbered(message: object) -> str:
    """What is said of a sample that was collated by itself, without its number there."""
    return str(message).replace("Sample 0: ", "", 1)


def _shower(
    student: str, teachers: list[str], aligners: list[str], teacher_max_length: int | None, **options: Any
) -> Callable[[Any], SampleView | MultiTeacherSampleView]:
    from dskd_components.collation import DualTokenizerCollator, MultiTeacherCollator

    own = load_tokenizer(student)
    if len(teachers) > 1:
        tokenizers = {
            name: load_tokenizer(source) for name, source in _named("--teacher", teachers, "large=FOLDER").items()
        }
        options |= {"aligners": _named("--aligner", aligners, "large=span")}
        options |= {"teacher_max_lengths": dict.fromkeys(tokenizers, teacher_max_length)}
        return MultiTeacherCollator(own, tokenizers, **options).show
    if len(aligners) > 1:
        raise ConfigurationError(f"--aligner: expected one for one teacher, got {', '.join(aligners)}.")
    options |= {"aligner": aligners[0]} if aligners else {}
    return DualTokenizerCollator(
        own, load_tokenizer(teachers[0]), teacher_max_length=teacher_max_length, **options
    ).show


def _named(option: str, values: list[str], example: str) -> dict[str, str]:
    """Values by the name before the equals sign."""
    found: dict[str, str] = {}
    for value in values:
        name, sign, rest = value.partition("=")
        if not sign or name in found:
            raise ConfigurationError(
                f"{option} {value}: give each a name of its own before it, as in {option} {example}."
            )
        found[name] = rest
    return found


def _write(view: SampleView | MultiTeacherSampleView, title: str, index: int, form: Form, *, is_first: bool) -> None:
    if form is Form.JSON:
        plain_json({"sample": index, **view.to_dict()}, indent=None)
    elif form is Form.HTML:
        import html

        plain_html(f"<h3>{html.escape(title)}</h3>\n{view.to_html()}")
    else:
        out = console()
        if not is_first:
            out.print()
        out.print(Text(title, "bold"), soft_wrap=True)
        if out.is_terminal:
            out.print(view)
        else:
            plain(view.to_text(width=out.width if os.environ.get("COLUMNS") else WIDTH))
