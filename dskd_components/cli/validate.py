"""``dskd validate``: whether spec files are valid, and what they come to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from dskd_components.cli.terminal import console, plain, standard_input
from dskd_components.spec import SpecFileError, SpecProblem, parse_spec
from dskd_components.spec.presets import PRESETS
from dskd_components.spec.reading import PRESET, read_text


def validate(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Spec files of one teacher or several, YAML or JSON; - reads YAML from the standard input.",
            metavar="SPEC...",
        ),
    ],
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print what each comes to, every default and preset filled in, as JSON.")
    ] = False,
) -> None:
    """Check spec files. Each problem is one line with file, line and path of the field; the exit code is 1."""
    valid = True
    for file in files:
        try:
            if file == "-":
                spec = parse_spec(_standard_input(), None, source="<stdin>")
            else:
                text, syntax = read_text(file)
                spec = parse_spec(text, None, syntax=syntax, source=file)
        except SpecFileError as error:
            valid = False
            _print_problems(error)
            if preset_hint(file) and not Path(file).exists():
                console(stderr=True).print(Text(preset_hint(file)), soft_wrap=True)
            continue
        if resolved:
            plain(spec.model_dump_json(indent=2))
        else:
            console().print(Text.assemble(f"{file}: ", ("valid", "green")), soft_wrap=True)
    if not valid:
        raise typer.Exit(1)


def preset_hint(name: str) -> str:
    """Return what to do with the name of a preset where something else was expected; nothing of other names.

    Args:
        name: what was given.
    """
    if name not in PRESETS:
        return ""
    return (
        f"{name!r} is a preset: a file with `{PRESET}: {name}` is a spec, and `dskd validate --resolved` says what it "
        "comes to."
    )


def _standard_input() -> str:
    try:
        return standard_input().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecFileError("<stdin>", [SpecProblem((), "cannot be read: it is not text in UTF-8")]) from error


def _print_problems(error: SpecFileError) -> None:
    out = console(stderr=True)
    for problem in error.problems:
        text = str(problem)
        path, colon, message = text.partition(": ") if problem.path else ("", "", text)
        line = Text.assemble((error.place(problem), "bold"), ": ", (path, "cyan"), colon, message)
        out.print(line, soft_wrap=True)
