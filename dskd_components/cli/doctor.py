"""``dskd doctor``: whether a student and a teacher fit together, and what a step costs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from dskd_components.cli.pretrained import load_model, load_tokenizer
from dskd_components.cli.terminal import console, plain
from dskd_components.errors import ConfigurationError
from dskd_components.spec import load_spec
from dskd_components.spec.dskd_spec import DSKDSpec
from dskd_components.spec.presets import PRESETS

if TYPE_CHECKING:
    from dskd_components.preflight import PreflightReport

MOST_TEXTS: Final = 200
"""How many paragraphs of a file are read."""


def doctor(
    student: Annotated[str, typer.Argument(help="Folder or hub name of the student.", show_default=False)],
    teacher: Annotated[str, typer.Argument(help="Folder or hub name of the teacher.", show_default=False)],
    spec: Annotated[
        str | None,
        typer.Option("--spec", help="A spec file or a preset; otherwise what is recommended.", show_default=False),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option("--text", help="Text to train on: paragraphs between blank lines.", show_default=False),
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", min=0, help="Student tokens in a step, for its cost; 0: measure nothing.")
    ] = 2048,
    device: Annotated[str, typer.Option("--device", help="Where both models run.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="For programs: JSON.")] = False,
) -> None:
    """Look at a pair of models before training. The exit code is 1 if there is an error among the findings."""
    wanted = None if spec is None else _spec(spec)
    texts = None if text is None else _texts(text)
    report = _report(student, teacher, wanted, texts, tokens or None, device)
    if as_json:
        plain(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
    elif console().is_terminal:
        console().print(report)
    else:
        plain(report.to_text())
    if not as_json:
        errors, warned = len(report.of_severity("error")), len(report.of_severity("warning"))
        style, word = (
            ("bold green", "The pair can be trained") if report.passed else ("bold red", "It cannot be trained")
        )
        console().print(Text(f"{word}: errors {errors}, warnings {warned}.", style), soft_wrap=True)
    if not report.passed:
        raise typer.Exit(1)


def _report(
    student: str, teacher: str, spec: DSKDSpec | None, texts: list[str] | None, tokens: int | None, device: str
) -> PreflightReport:
    from dskd_components.loss.dskd_loss import DSKDLoss
    from dskd_components.preflight import SAMPLE_TEXTS, Pair, examine

    errors = console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("reading tokenizers", total=None)

        def watch(step: str) -> None:
            progress.update(task, description=f"looking at {step}")

        tokenizers = [load_tokenizer(source) for source in (student, teacher)]
        models = []
        for side, source in (("student", student), ("teacher", teacher)):
            progress.update(task, description=f"loading the {side}")
            models.append(load_model(source, device))
        pair = Pair(
            student=models[0],
            teacher=models[1],
            student_tokenizer=tokenizers[0],
            teacher_tokenizer=tokenizers[1],
            spec=spec,
            texts=SAMPLE_TEXTS if texts is None else texts,
        )
        return examine(DSKDLoss, pair, tokens_per_step=tokens, watch=watch)


def _spec(name: str) -> DSKDSpec:
    if Path(name).is_file() or Path(name).suffix:
        return load_spec(Path(name))
    if name in PRESETS:
        return DSKDSpec.preset(name)
    raise ConfigurationError(f"--spec {name}: there is neither such a file nor such a preset ({', '.join(PRESETS)}).")


def _texts(path: Path) -> list[str]:
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--text {path}: expected a text file in UTF-8: {error}") from error
    paragraphs = [paragraph for paragraph in re.split(r"\n\s*\n", content) if paragraph.strip()]
    if not paragraphs:
        raise ConfigurationError(f"--text {path}: the file holds no text.")
    return paragraphs[:MOST_TEXTS]
