r"""The papers' experiments, a command for each step; every one goes on where it was stopped.

    python -m examples.paper rows
    python -m examples.paper prepare --train databricks-dolly-15k.jsonl --test self-inst=FILE --output DATA
    python -m examples.paper train --row gpt2-qwen/teacher --teacher MODEL --data DATA --output RUNS
    python -m examples.paper train --row gpt2-qwen/dskd-cma --student MODEL --teacher RUNS/gpt2-qwen/teacher/model \
        --data DATA --output RUNS
    python -m examples.paper generate --row gpt2-qwen/dskd-cma --data DATA --output RUNS
    python -m examples.paper score --data DATA --output RUNS
    python -m examples.paper table --output RUNS

`train` takes all of transformers' training arguments, and any launcher starts it:

    accelerate launch --config_file examples/launchers/ddp.yaml -m examples.paper train --row ...
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import distributed

from dskd_components.errors import DSKDError
from examples.paper import data
from examples.paper.recipe import PaperError, common
from examples.paper.rows import row_of, rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from examples.paper.data import Sample


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out a command.

    Args:
        arguments: of the command line; None: those of this process.

    Raises:
        PaperError: something is missing; the message says what to do.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["train"]:
        from examples.paper import train

        train.main(given[1:])
        return
    options = _parser().parse_args(given)
    options.carry_out(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.paper", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("rows", help="list all rows")
    listing.set_defaults(carry_out=lambda _: Console().print(_listing()))

    preparing = commands.add_parser("prepare", help="make prompts and responses of files of instructions")
    preparing.add_argument("--train", type=Path, required=True, help="JSONL of instructions, as Dolly's")
    preparing.add_argument("--dev", type=Path, help="JSONL to choose checkpoints on; default: a part of --train")
    preparing.add_argument("--test", type=_named_file, action="append", default=[], metavar="NAME=FILE",
                           help="JSONL of a test set; without dolly=FILE, a part of --train is that")  # fmt: skip
    preparing.add_argument("--sizes", type=int, nargs=2, metavar=("TEST", "DEV"), help="of parts taken out of --train")
    preparing.add_argument("--output", type=Path, required=True, help="the folder")
    preparing.set_defaults(carry_out=_prepare)

    commands.add_parser("train", help="train a row; `train --help` says how")

    generating = commands.add_parser("generate", help="answer the test sets")
    generating.add_argument("--row", required=True)
    generating.add_argument("--data", type=Path, required=True)
    generating.add_argument("--output", type=Path, required=True, help="folder of all rows")
    generating.add_argument("--model", help="folder of the model; default: the one that `train` has saved")
    generating.add_argument("--tests", nargs="+", help="default: all")
    generating.add_argument("--seeds", type=int, nargs="+", default=list(common().generation.seeds))
    generating.add_argument("--batch_size", type=int, default=common().generation.batch_size)
    generating.add_argument("--limit", type=int, help="prompts of each test set; default: the papers'")
    generating.add_argument("--answer_tokens", type=int, help="the most tokens of an answer; default: the papers'")
    generating.set_defaults(carry_out=_generate)

    scoring = commands.add_parser("score", help="compare answers with references")
    scoring.add_argument("--row", help="default: all that have answers")
    scoring.add_argument("--data", type=Path, required=True)
    scoring.add_argument("--output", type=Path, required=True, help="folder of all rows")
    scoring.set_defaults(carry_out=_score)

    showing = commands.add_parser("table", help="print the tables, beside what is published")
    showing.add_argument("--output", type=Path, required=True, help="folder of all rows")
    showing.set_defaults(carry_out=_table)
    return parser


def _named_file(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name or "/" in name:
        raise argparse.ArgumentTypeError(f"expected NAME=FILE, as self-inst=self_inst.jsonl, got {text!r}")
    return name, Path(path)


def _listing() -> Table:
    table = Table(title="python -m examples.paper train --row ROW")
    for heading in ("row", "model", "teacher", "what it is"):
        table.add_column(heading, no_wrap=heading == "row")
    for name, row in rows().items():
        teacher = "" if row.method.spec is None else row.pair.teacher.name
        table.add_row(name, row.model.name, teacher, row.title)
    return table


def _prepare(options: argparse.Namespace) -> None:
    sizes = tuple(options.sizes) if options.sizes else None
    counts = data.prepare(options.train, options.output, dev=options.dev, tests=dict(options.test), sizes=sizes)
    for name, count in counts.items():
        print(f"{options.output / name}.jsonl: {count:,} texts")


def _generate(options: argparse.Namespace) -> None:
    from examples.paper.answers import Writer, write_file
    from examples.paper.models import load_model, load_tokenizer, on_accelerator

    row = row_of(options.row)
    folder = options.output / row.name
    path = options.model or str(folder / "model")
    if options.model is None and not (folder / "model").is_dir():
        raise PaperError(f"There is no {path}. First: train --row {row.name}, or give --model PATH.")
    samples = {name: _test_set(options.data, name, options.limit) for name in _chosen(options.data, options.tests)}
    model = load_model(path, row.model, frozen=True)
    writer = Writer(
        model.to("cuda" if on_accelerator() else "cpu"),  # type: ignore[arg-type]
        load_tokenizer(path, row.model),
        answer_tokens=options.answer_tokens,
    )
    with _progress() as progress:
        for name, its_samples in samples.items():
            for seed in options.seeds:
                file = folder / "answers" / name / f"{seed}.jsonl"
                done = write_file(writer, its_samples, file, seed=seed, batch_size=options.batch_size)
                _follow(progress, f"{name}, seed {seed}", done, len(its_samples))


def _score(options: argparse.Namespace) -> None:
    from examples.paper.scores import Scores

    names = [row_of(options.row).name] if options.row else list(rows())
    found = {name: scores for name in names if (scores := Scores(options.output / name)).files()}
    if not found:
        raise PaperError(f"There are no answers in {options.output}{'/' + names[0] if options.row else ''}: generate.")
    with _progress() as progress:
        for name, scores in found.items():
            for file in scores.files():
                samples = _test_set(options.data, file.parent.name, None)
                title = f"{name}, {file.parent.name}, seed {file.stem}"
                _follow(progress, title, scores.update(file, samples), len(samples))


def _table(options: argparse.Namespace) -> None:
    from examples.paper.scores import tables

    console = Console()
    for table in tables(options.output):
        console.print(table)


def _chosen(folder: Path, tests: Sequence[str] | None) -> list[str]:
    there = data.names_of_tests(folder)
    if missing := [name for name in tests or () if name not in there]:
        raise PaperError(f"There is no test set {missing[0]!r} in {folder}; it has {', '.join(there) or 'none'}.")
    if not there:
        data.read_part(folder, "tests/dolly")  # says what is missing
    return list(tests or there)


def _test_set(folder: Path, name: str, limit: int | None) -> list[Sample]:
    known = common().tests.get(name)
    return data.read_part(folder, f"tests/{name}")[: limit or (known.limit if known else None)]


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn())


def _follow(progress: Progress, description: str, done: Iterable[int], total: int) -> None:
    task = progress.add_task(description, total=total)
    for number in done:
        progress.update(task, completed=number)


if __name__ == "__main__":
    try:
        main()
    except (PaperError, DSKDError) as error:
        sys.exit(f"error: {error}")
    if distributed.is_available() and distributed.is_initialized():
        # Threads of a process group that outlive the interpreter can abort it, after all is done.
        distributed.destroy_process_group()
