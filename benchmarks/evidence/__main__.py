"""Distil real models in every way that there is, and compare.

    python -m benchmarks.evidence all --folder FOLDER
    python -m benchmarks.evidence all --quick --folder FOLDER

Stages: `prepare` makes texts, tokenizers and models, `teacher` runs the teacher once, `runs` trains the students, as
many as there is time for, and goes on where it was stopped, `meaning` looks at what projections keep, `report` writes
tables and pictures of what is there. `toy` draws the paper's simulation and needs none of the others.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.evidence.arms import ORDER, arms_of
from benchmarks.evidence.bench import Bench
from benchmarks.evidence.journal import dev_scores, journals
from benchmarks.evidence.meaning import meaning
from benchmarks.evidence.page import draw_curves, draw_gains, fill
from benchmarks.evidence.plan import Plan
from benchmarks.evidence.prepare import prepare, store_teacher
from benchmarks.evidence.queue import next_run, remaining
from benchmarks.evidence.results import results
from benchmarks.evidence.toy import Toy, simulate
from benchmarks.evidence.toy import draw as draw_toy
from benchmarks.evidence.training import carry_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.evidence.plan import Run
    from benchmarks.evidence.queue import Order

STAGES = ("prepare", "teacher", "runs", "meaning", "report", "toy")

PUBLISHED = {
    "json": "benchmarks/results/evidence.json",
    "images": "docs/images",
    "page": "docs/explanation/evidence.md",
}
"""Where the repository keeps what a report has."""

QUICK: Order = (("two", ("ce", "cma-shared")), ("one", ("dskd",)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out some stages, or all of them.

    Args:
        arguments: of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", default=["all"], help=f"some of {', '.join(STAGES)}; or all")
    parser.add_argument("--folder", type=Path, default=Path("output/evidence"), help="of all that is made")
    parser.add_argument("--teacher", type=Path, help="a folder with a model of the Llama family; else from a package")
    parser.add_argument("--data", type=Path, help="JSON lines: text, or prompt and response; else Python's help")
    parser.add_argument("--quick", action="store_true", help="tiny models, in seconds; results mean nothing")
    parser.add_argument("--publish", type=Path, help="a checkout, whose page, pictures and results a report renews")
    parser.add_argument("--hours", type=float, help="begin no run after so many hours")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    stages = STAGES if "all" in options.stages else options.stages
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        parser.error(f"expected some of {', '.join((*STAGES, 'all'))}, got {unknown[0]!r}")
    torch.set_num_threads(options.threads)
    bench = Bench(options.folder, Plan.quick() if options.quick else Plan())
    console, order = Console(), QUICK if options.quick else ORDER
    if "prepare" in stages:
        with _display(console) as display:
            watch = _bar(display, "healing a student")
            prepare(bench, teacher=options.teacher, data=options.data, tiny=options.quick, watch=watch)
    if "teacher" in stages:
        store_teacher(bench)
    if "runs" in stages:
        all_runs(bench, order, console, hours=options.hours)
    if "meaning" in stages:
        bench.write("meaning.json", meaning(bench))
    if "report" in stages:
        report(bench, order, options.publish)
    if "toy" in stages:
        draw_toy(simulate(Toy()), _images(bench.folder, options.publish) / "evidence_toy.png")


def report(bench: Bench, order: Order, checkout: Path | None) -> None:
    """Write results and pictures; in a checkout the page as well.

    Args:
        bench: the folder, with runs.
        order: which arms there are to be.
        checkout: where the page is; None: all is written to the folder.
    """
    found = results(bench, order) | {"meaning": bench.read("meaning.json")}
    images = _images(bench.folder, checkout)
    file = bench.folder / "report" / "evidence.json" if checkout is None else checkout / PUBLISHED["json"]
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw_gains(found, images / "evidence_gains.png")
    draw_curves(found, images / "evidence_curves.png")
    if checkout is not None:
        fill(checkout / PUBLISHED["page"], found)


def _images(folder: Path, checkout: Path | None) -> Path:
    images = folder / "report" if checkout is None else checkout / PUBLISHED["images"]
    images.mkdir(parents=True, exist_ok=True)
    return images


def all_runs(bench: Bench, order: Order, console: Console, *, hours: float | None) -> None:
    """Train students until all are trained, or time is up.

    Args:
        bench: the folder, prepared.
        order: the arms.
        console: where progress is shown.
        hours: after which no run begins; None: any number.
    """
    began = time.monotonic()
    bench.write_plan()
    with _alone_in(bench.folder):
        while hours is None or time.monotonic() - began < 3600 * hours:
            finished = dev_scores(journals(bench.folder / "runs"))
            run = next_run(order, finished, bench.plan)
            if run is None:
                console.print("All runs are done.")
                return
            left = remaining(order, finished, bench.plan) - 1
            console.print(f"{_one_run(bench, run, console)}; about {left:.0f} runs left")


def _one_run(bench: Bench, run: Run, console: Console) -> str:
    """Train one student, and return what to say of it."""
    started = time.monotonic()
    with _display(console) as display:
        end = carry_out(bench, run, arms_of(run.setting)[run.arm], _bar(display, run.name))
    return (
        f"{time.strftime('%H:%M')} {run.name}: test {end['nats_per_byte']:.4f} nats a byte, "
        f"{time.monotonic() - started:.0f} s, {end['seconds']:.0f} s of them training"
    )


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, in which one process trains at a time.

    Raises:
        SystemExit: another one does.
    """
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SystemExit(
                f"{folder}: another process trains there. Wait for it, or give another --folder."
            ) from error
        yield


def _display(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<36}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _bar(display: Progress, description: str) -> Callable[[int, int], None]:
    task = display.add_task(description, total=None)
    return lambda done, total: display.update(task, completed=done, total=total)


if __name__ == "__main__":
    main()
