"""Distil real models in every way that there is, and compare.

    python -m benchmarks.evidence all --folder FOLDER
    python -m benchmarks.evidence all --quick --folder FOLDER

Stages: `prepare` makes texts, tokenizers and models, `teacher` runs the teacher once, and lets it write text if an arm
learns from that, `runs` trains the students, as many as there is time for, and goes on where it was stopped, `meaning`
looks at what projections keep, `times` measures each arm's step alone, `report` writes tables and pictures of what is
there, without models. `toy` draws the paper's simulation and needs none of the others. `search`, which is not among
`all`, tries more ways on the dev texts.
"""

from __future__ import annotations

import argparse
import json
import tarfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.evidence.arms import HEADLINE, ORDER, arms_of
from benchmarks.evidence.bench import Bench
from benchmarks.evidence.journal import dev_scores, journals
from benchmarks.evidence.meaning import meaning
from benchmarks.evidence.page import fill
from benchmarks.evidence.pictures import draw_all
from benchmarks.evidence.plan import SETTINGS, Plan, vocabularies
from benchmarks.evidence.pool import Pool, Setup, alone_in, one_run
from benchmarks.evidence.prepare import prepare, store_teacher
from benchmarks.evidence.queue import next_runs, remaining
from benchmarks.evidence.results import results
from benchmarks.evidence.search import listed, next_searched, ranking, searched, with_best
from benchmarks.evidence.times import measure_times
from benchmarks.evidence.toy import Toy, simulate
from benchmarks.evidence.toy import draw as draw_toy
from benchmarks.evidence.written import FILE as WRITTEN
from benchmarks.evidence.written import texts_needed, unwritten, write_as_teacher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from benchmarks.evidence.plan import Run, SettingName
    from benchmarks.evidence.queue import Order

STAGES = ("prepare", "teacher", "runs", "meaning", "times", "report", "toy")
"""What `all` stands for, in this order; `search` comes after `teacher`."""

PUBLISHED = {
    "json": "benchmarks/results/evidence.json",
    "images": "docs/images",
    "page": "docs/explanation/evidence.md",
}
"""Where the repository keeps what a report has."""

QUICK: Order = (("two", ("ce", "cma-shared")), ("one", ("dskd", "teacher-text")))


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out some stages, or all of them.

    Args:
        arguments: of the command line; None: those of this process.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    stages = _stages(parser, options)
    began = time.monotonic()
    until = _until(began, options.hours and 3600 * options.hours, options.seconds)
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("highest")
    plan = Plan.quick() if options.quick else Plan()
    bench = Bench(options.folder, plan, options.device)
    console = Console()
    pools = _pools(options, plan, stages)
    if "prepare" in stages:
        with _display(console) as display:
            watch = _bar(display, "healing a student")
            prepare(bench, teacher=options.teacher, data=options.data, tiny=options.quick, watch=watch)
        console.print(f"Prepared after {time.monotonic() - began:.0f} s.")
    if "teacher" in stages:
        store_teacher(bench)
        console.print(f"The teacher's states are there after {time.monotonic() - began:.0f} s.")
    if "search" in stages:
        limits = (options.hours and 3600 * options.hours, options.seconds, options.search_seconds)
        _search(bench, options.arms, console, pools.get("search"), _until(began, *limits))
    order = _order(options, bench)
    if not {"teacher", "runs", "times"}.isdisjoint(stages):
        _write(bench, texts_needed(order, plan), console)
    if "runs" in stages:
        all_runs(
            bench,
            partial(next_runs, order, plan=plan, more_seeds=_with_more_seeds(order)),
            order,
            console,
            pool=pools.get("runs"),
            until=until,
        )
    _measure(bench, order, stages)
    if "report" in stages:
        beside = [Bench(folder, plan, options.device) for folder in options.beside]
        report(bench, order, options.publish, beside)
    if options.pack is not None:
        pack(bench.folder, options.pack)
    if "toy" in stages:
        draw_toy(simulate(Toy()), _images(bench.folder, options.publish) / "evidence_toy.png")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", default=["all"], help=f"some of {', '.join(STAGES)}, search; or all")
    parser.add_argument("--folder", type=Path, default=Path("output/evidence"), help="of all that is made")
    parser.add_argument("--teacher", type=Path, help="a folder with a model of the Llama family; else from a package")
    parser.add_argument("--data", type=Path, help="JSON lines: text, or prompt and response; else Python's help")
    parser.add_argument("--quick", action="store_true", help="tiny models, in seconds; results mean nothing")
    parser.add_argument(
        "--beside",
        action="append",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="of the same experiment on another machine, for a report; may be given again",
    )
    parser.add_argument("--publish", type=Path, help="a checkout, whose page, pictures and results a report renews")
    parser.add_argument("--hours", type=float, help="begin no run after so many hours of this command")
    parser.add_argument("--seconds", type=float, help="the same in seconds")
    parser.add_argument("--search-seconds", type=float, help="begin no run of the search after so many seconds")
    parser.add_argument(
        "--best-of-search", type=int, default=0, help="how many arms that the search has found best are compared, too"
    )
    parser.add_argument(
        "--arms", action="append", type=_line, metavar="SETTING:ARM,ARM", help="these alone; may be given again"
    )
    parser.add_argument("--threads", type=int, default=1, help="of each process that trains")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--workers", type=int, default=0, help="processes that train; 0: this one, with a progress bar")
    parser.add_argument("--pack", type=Path, help="a .tar.gz for what was found: rows of runs, numbers, no models")
    return parser


def _stages(parser: argparse.ArgumentParser, options: argparse.Namespace) -> tuple[str, ...]:
    """Return the stages that are asked for; others are refused."""
    unknown = [stage for stage in options.stages if stage not in (*STAGES, "search", "all")]
    if unknown:
        parser.error(f"expected some of {', '.join((*STAGES, 'search', 'all'))}, got {unknown[0]!r}")
    stages = (*options.stages, *STAGES) if "all" in options.stages else options.stages
    if options.beside and "report" not in stages:
        parser.error(f"expected the stage 'report', which reads --beside, got {', '.join(stages)}")
    return tuple(stages)


def _line(given: str) -> tuple[SettingName, tuple[str, ...]]:
    """Return a line of the queue as the command line has it, such as ``two:ce,min-edit``."""
    name, _, names = given.partition(":")
    setting = next((each for each in SETTINGS if each == name), None)
    if setting is None:
        raise argparse.ArgumentTypeError(f"expected SETTING:ARM,ARM with one of {', '.join(SETTINGS)}, got {given!r}")
    arms = tuple(arm for arm in names.split(",") if arm)
    unknown = [arm for arm in arms if arm not in arms_of(setting) and arm not in searched(setting)]
    if unknown or not arms:
        what = f"no arm {unknown[0]!r}" if unknown else "no arms"
        raise argparse.ArgumentTypeError(
            f"{given!r} has {what}; expected some of {', '.join(arms_of(setting))} after {setting}:"
        )
    return setting, arms


def _order(options: argparse.Namespace, bench: Bench) -> Order:
    """Return which arms are compared, and print what the search has added."""
    order: Order = options.arms or (QUICK if options.quick else ORDER)
    if options.best_of_search:
        order = with_best(order, bench.read("search.json") or [], options.best_of_search)
        print("; ".join(f"{setting}: {', '.join(arms)}" for setting, arms in order), flush=True)
    return order


def _with_more_seeds(order: Order) -> set[tuple[SettingName, str]]:
    """Return what is compared with more seeds: what the headline has, and what the search has added to it."""
    added = [(setting, arm) for setting, arms in order for arm in arms if arm not in arms_of(setting)]
    return {*HEADLINE, *((setting, arm) for setting, arm in added if setting == vocabularies(setting))}


def _until(began: float, *seconds: float | None) -> float | None:
    """Return when the first of some limits is reached; None: there is none."""
    return min((began + each for each in seconds if each is not None), default=None)


def _pools(options: argparse.Namespace, plan: Plan, stages: Sequence[str]) -> dict[str, Pool]:
    """Start the processes that train: they load what they need while this one prepares."""
    return {
        stage: Pool(
            Setup(
                folder=options.folder,
                plan=plan,
                device=options.device,
                searches=stage == "search",
                threads=options.threads,
            ),
            options.workers,
            partial(print, flush=True),
        )
        for stage in ("search", "runs")
        if options.workers and stage in stages
    }


def _write(bench: Bench, count: int, console: Console) -> None:
    """Let the teacher write what arms learn from, before any worker may ask for it."""
    if unwritten(bench, count):
        with alone_in(bench.folder), _display(console) as display:
            write_as_teacher(bench, count, _bar(display, "the teacher writes"))


def _measure(bench: Bench, order: Order, stages: Sequence[str]) -> None:
    """Look at what projections keep, and at what steps cost."""
    if "meaning" in stages:
        bench.write("meaning.json", meaning(bench))
    if "times" in stages:
        measure_times(bench.folder, bench.plan, order, partial(print, flush=True))


def report(bench: Bench, order: Order, checkout: Path | None, beside: Sequence[Bench] = ()) -> None:
    """Write results and pictures; in a checkout the page as well.

    Args:
        bench: the folder, with runs.
        order: which arms there are to be.
        checkout: where the page is; None: all is written to the folder.
        beside: folders of the same experiment, whose runs were made elsewhere.
    """
    found = results(bench, order, beside)
    images = _images(bench.folder, checkout)
    file = bench.folder / "report" / "evidence.json" if checkout is None else checkout / PUBLISHED["json"]
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    drawn = draw_all(found, images)
    if checkout is not None:
        fill(checkout / PUBLISHED["page"], found, drawn)


def _search(bench: Bench, arms: Order | None, console: Console, pool: Pool | None, until: float | None) -> None:
    """Try arms on the dev texts, all that there are or some at all rates that they need, and print what is best."""
    searching = Bench(bench.folder, bench.plan, str(bench.device), searches=True)
    one_seed = replace(bench.plan, seeds=bench.plan.seeds[:1])
    next_of = partial(next_searched, plan=bench.plan) if arms is None else partial(next_runs, arms, plan=one_seed)
    all_runs(searching, next_of, arms, console, pool=pool, until=until)
    rows = ranking(dev_scores(journals(searching.runs)), bench.plan)
    bench.write("search.json", rows)
    print(listed(rows), flush=True)


def _images(folder: Path, checkout: Path | None) -> Path:
    images = folder / "report" if checkout is None else checkout / PUBLISHED["images"]
    images.mkdir(parents=True, exist_ok=True)
    return images


def all_runs(
    bench: Bench,
    next_of: Callable[[Mapping[Run, float]], Iterable[Run]],
    order: Order | None,
    console: Console,
    *,
    pool: Pool | None,
    until: float | None,
) -> None:
    """Train students until all are trained, or time is up.

    Args:
        bench: the folder, prepared.
        next_of: what can begin once so much is finished, the most urgent first.
        order: the arms, to say how many runs are left; None: it is not known.
        console: where progress is shown.
        pool: the processes that train; None: this one does.
        until: by `time.monotonic`, when no run begins any more; None: never.

    """
    bench.write_plan()
    with alone_in(bench.folder):
        finished = dev_scores(journals(bench.runs))
        if pool is not None:
            done = pool.carry_out(finished, next_of, until=until)
            pool.close()
            if pool.failed:
                console.print(f"{len(pool.failed)} runs failed: {', '.join(run.name for run in pool.failed)}.")
        else:
            done = False
            while not done and (until is None or time.monotonic() < until):
                run = next(iter(next_of(finished)), None)
                done = run is None
                if run is not None:
                    with _display(console) as display:
                        finished[run], said = one_run(bench, run, _bar(display, run.name))
                    left = (
                        ""
                        if order is None
                        else f"; about {remaining(order, finished, bench.plan, HEADLINE):.0f} runs left"
                    )
                    console.print(f"{said}{left}")
    if done:
        console.print("All runs are done.")


def pack(folder: Path, path: Path) -> None:
    """Put what was found into one file, without models: from it a report can be made elsewhere.

    Args:
        folder: the folder.
        path: a ``.tar.gz``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("*.json", WRITTEN, "tokenizer/*.json", "runs/*.jsonl", "search/*.jsonl", "report/*")
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(file for name in names for file in folder.glob(name)):
            archive.add(file, file.relative_to(folder))


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
