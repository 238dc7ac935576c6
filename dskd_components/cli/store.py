"""``dskd store``: build a teacher's store, look at it, verify it, merge parts, and plan what one takes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from dskd_components.cli.pretrained import load_config, load_model, load_tokenizer
from dskd_components.cli.terminal import console, plain_json, row, table
from dskd_components.errors import ConfigurationError, as_sentence

if TYPE_CHECKING:
    from dskd_components.store.sizes import StoreSize

app = typer.Typer(
    name="store",
    no_args_is_help=True,
    help="A teacher's states on disk, from which students are trained without the teacher.",
)

UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}
FORMATS: Final = ("float32", "bfloat16", "int8")

Folder = Annotated[Path, typer.Argument(help="Folder of the store.", show_default=False)]
Device = Annotated[str, typer.Option("--device", help="Where the teacher runs.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Samples that the teacher runs on together.")]


@app.command("build")
def build(
    folder: Folder,
    teacher: Annotated[str, typer.Argument(help="Folder or hub name of the teacher.", show_default=False)],
    data: Annotated[
        Path,
        typer.Argument(help="Samples: a file of JSON lines, or of text with blank lines between.", show_default=False),
    ],
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or int8.")] = "bfloat16",
    batch_size: BatchSize = 8,
    device: Device = "cpu",
    max_length: Annotated[
        int | None, typer.Option("--max-length", min=1, help="The most tokens of a sample.", show_default=False)
    ] = None,
    train_on_prompt: Annotated[
        bool, typer.Option("--train-on-prompt", help="Prompts are scored, too, not responses alone.")
    ] = False,
    positions: Annotated[str, typer.Option("--positions", help="'scored' ones, or 'all'.")] = "scored",
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", help="Part i of n alone, as i/n, counted from 0; under torchrun the rank's.", show_default=False
        ),
    ] = None,
    skip: Annotated[bool, typer.Option("--skip", help="Leave out samples that cannot be used.")] = False,
) -> None:
    """Run a teacher over samples once. Run it again after it was cut short: it goes on."""
    from dskd_components.collation import DualTokenizerCollator
    from dskd_components.store import TeacherStore

    part = _part(shard)
    samples = _samples(data)
    tokenizer = load_tokenizer(teacher)
    collate = DualTokenizerCollator(
        tokenizer,
        tokenizer,
        aligner=None,
        teacher_max_length=max_length,
        train_on_prompt=train_on_prompt,
        on_error="skip" if skip else "raise",
    )
    store = TeacherStore.build(
        folder,
        load_model(teacher, device),
        collate,
        samples,
        dtype=dtype,  # type: ignore[arg-type]  # it says itself what it expects
        batch_size=batch_size,
        positions=positions,  # type: ignore[arg-type]
        shard=part,
        progress=True,
    )
    skipped = sum(collate.skipped.values())
    note = f", {skipped} left out" if skipped else ""
    console().print(Text(f"{folder}: {len(store)} samples{note}.", "bold green"), soft_wrap=True)


@app.command("show")
def show(folder: Folder, as_json: Annotated[bool, typer.Option("--json", help="For programs: JSON.")] = False) -> None:
    """Print what a store is of, and what it takes."""
    from dskd_components.store.reader import Reader
    from dskd_components.store.sizes import measured

    reader = Reader(folder)
    size, manifest = measured(reader), reader.manifest
    if as_json:
        facts = manifest.model_dump(mode="json") | {"size": vars(size), "shards": len(reader.index.names)}
        plain_json(facts)
        return
    from dskd_components.store.progress import in_bytes

    out = table({"header": "", "no_wrap": True}, "")
    shown = {
        "teacher": f"{manifest.head.configuration}, width {manifest.hidden_size}, computed in {manifest.computed_in}",
        "weights": manifest.teacher[:16],
        "tokenizer": manifest.tokenizer or "not known",
        "chat template": (manifest.chat_template or "none")[:16],
        "options": ", ".join(f"{name}={value}" for name, value in manifest.options.items()) or "not noted",
        "states": f"{manifest.states}, {manifest.positions} positions",
        "samples": f"{size.samples:,}",
        "tokens": f"{size.tokens:,}, {size.states:,} with states",
        "files": f"{len(reader.index.names)} of states, {in_bytes(size.total)} in all",
        "a state": f"{size.per_state():.1f} bytes, {size.per_state() / manifest.hidden_size:.3f} a unit, all included",
        "head and embedding": in_bytes(size.teacher_bytes),
    }
    for name, value in shown.items():
        row(out, [name, value])
    console().print(out)


@app.command("verify")
def verify(
    folder: Folder,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="Compute samples again with this one.", show_default=False)
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="How many.")] = 16,
    seed: Annotated[int, typer.Option("--seed", help="Which ones.")] = 0,
    device: Device = "cpu",
    batch_size: BatchSize = 8,
) -> None:
    """Read all files anew, and compute some states again. The exit code is 1 if something is wrong."""
    from dskd_components.store.reader import Reader
    from dskd_components.store.verify import verify as verified

    reader = Reader(folder)
    model = None if teacher is None else load_model(teacher, device)
    report = verified(reader, model, samples=samples, seed=seed, batch_size=batch_size)
    out = console()
    for problem in report.problems:
        out.print(Text(f"✗ {problem}", "red"), soft_wrap=True)
    if report.relative_error is not None:
        out.print(
            Text(
                f"{report.recomputed} samples computed again: states differ by {report.mean_relative_error:.2g} of "
                f"their length on average, by {report.relative_error:.2g} at most."
            ),
            soft_wrap=True,
        )
    if not report.passed:
        raise typer.Exit(1)
    out.print(Text(f"{folder}: all {report.states:,} states are as they were written.", "bold green"), soft_wrap=True)


@app.command("merge")
def merge(
    folder: Folder, parts: Annotated[list[Path], typer.Argument(help="Folders of its parts.", show_default=False)]
) -> None:
    """Put parts that were built apart into one store; they stay as they are."""
    from dskd_components.store.merge import merge as put_together
    from dskd_components.store.reader import Reader

    put_together(folder, parts)
    reader = Reader(folder)
    copies = reader.copies()
    note = f" {copies} further copies, of samples that several parts have, take up space there." if copies else ""
    console().print(Text(f"{folder}: {len(reader) - copies} samples.{note}", "bold green"), soft_wrap=True)


@app.command("plan")
def plan(
    teacher: Annotated[
        str, typer.Argument(help="Folder or hub name of the teacher, or its hidden size.", show_default=False)
    ],
    tokens: Annotated[str, typer.Option("--tokens", help="Tokens of the data, as 50k, 10M or 2G.")] = "10M",
    scored: Annotated[float, typer.Option("--scored", help="Which share of them is scored.")] = 1.0,
    length: Annotated[int, typer.Option("--length", min=1, help="Tokens of a sample.")] = 512,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: JSON.")] = False,
) -> None:
    """Print what a store would take, by format, before anything is computed."""
    from dskd_components.store.progress import in_bytes
    from dskd_components.store.sizes import planned

    width, head_bytes = _width_and_head(teacher)
    count = count_of("--tokens", tokens)
    sizes: dict[str, StoreSize] = {
        name: planned(
            width,
            count,
            dtype=name,
            scored=scored,
            tokens_per_sample=length,
            head_bytes=head_bytes,
        )
        for name in FORMATS
    }
    if as_json:
        plain_json({name: vars(size) | {"total": size.total} for name, size in sizes.items()})
        return
    out = table("format", "a state", "a unit", "states", "tokens, index", "head", "in all")
    for name, size in sizes.items():
        cells = [size.state_bytes, size.other_bytes, size.teacher_bytes, size.total]
        per_state = size.per_state()
        row(out, [name, f"{per_state:,.0f} B", f"{per_state / width:.3f} B", *map(in_bytes, cells)])
    console().print(out)


def _width_and_head(teacher: str) -> tuple[int, int]:
    """Return a teacher's width, and what its head and embedding take in the precision of its files."""
    if teacher.isdigit():
        return int(teacher), 0
    config = load_config(teacher)
    width, vocabulary = config.hidden_size, config.vocab_size
    matrices = 1 if getattr(config, "tie_word_embeddings", False) else 2
    item = getattr(getattr(config, "dtype", None), "itemsize", 2)
    return int(width), int(vocabulary * width * matrices * item)


def count_of(option: str, text: str) -> int:
    """Return a number of tokens.

    Args:
        option: where it was given.
        text: as 250000, 50k, 10M or 2G.

    Raises:
        ConfigurationError: it is none.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kKmMgGbBtT]?)\s*", text)
    if found is None:
        raise ConfigurationError(f"{option} {text}: expected a number such as 250000, 50k, 10M or 2G.")
    return round(float(found[1]) * UNITS[found[2].lower()])


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        ranks = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE")]
        return (int(ranks[0]), int(ranks[1])) if ranks[0] and ranks[1] else None
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None:
        raise ConfigurationError(f"--shard {text}: expected i/n, part i of n counted from 0, such as 0/4.")
    return int(found[1]), int(found[2])


def _samples(path: Path) -> list[Any]:
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: expected a text file in UTF-8: {as_sentence(error)}") from error
    if path.suffix not in (".jsonl", ".json"):
        samples: list[Any] = [{"text": text} for text in re.split(r"\n\s*\n", content) if text.strip()]
    else:
        samples = []
        for number, line in enumerate(content.splitlines(), start=1):
            try:
                samples += [json.loads(line)] if line.strip() else []
            except ValueError as error:
                raise ConfigurationError(
                    f"{path}, line {number}: expected one sample as JSON: {as_sentence(error)}"
                ) from error
    if not samples:
        raise ConfigurationError(f"{path}: the file holds no samples.")
    return samples
