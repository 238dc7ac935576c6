"""Runs in several processes: the parent alone says what comes next, each worker keeps models and batches in memory."""

from __future__ import annotations

import fcntl
import os
import time
import traceback
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, parent_process
from typing import TYPE_CHECKING, Final

import torch

from benchmarks.evidence.bench import Bench
from benchmarks.evidence.search import arm_of
from benchmarks.evidence.training import carry_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess
    from pathlib import Path

    from benchmarks.evidence.plan import Plan, Run

TRIES: Final = 2
"""How many workers a run may cost before it counts as failed."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a worker needs to know.

    Args:
        folder: as of `Bench`.
        plan: likewise.
        device: likewise.
        searches: likewise.
        threads: of each worker.
    """

    folder: Path
    plan: Plan
    device: str
    searches: bool
    threads: int


@dataclass
class Worker:
    """A process, and what it is busy with.

    Args:
        process: the process.
        pipe: this end of the pipe to it.
        run: that it carries out; None: it waits.
    """

    process: SpawnProcess
    pipe: Connection
    run: Run | None = None


@dataclass
class Pool:
    """Worker processes, which begin to load what they need at once.

    Args:
        setup: of each.
        size: how many.
        say: takes a line for each run that is finished, and for what went wrong.
    """

    setup: Setup
    size: int
    say: Callable[[str], None]
    failed: dict[Run, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Each worker has its own core; libraries read this when they are loaded.
        os.environ["OMP_NUM_THREADS"] = str(self.setup.threads)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._workers = [self._started() for _ in range(self.size)]
        self._deaths: Counter[Run] = Counter()

    def _started(self) -> Worker:
        # CUDA does not survive a fork.
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(self.setup, theirs), daemon=True)
        process.start()
        theirs.close()
        return Worker(process, ours)

    def carry_out(
        self,
        finished: dict[Run, float],
        next_runs: Callable[[Mapping[Run, float]], Iterable[Run]],
        *,
        until: float | None,
    ) -> bool:
        """Train students until all are trained, or time is up.

        Args:
            finished: nats per byte of the dev texts by run; what is finished here is added.
            next_runs: what can begin once so much is finished, the most urgent first.
            until: by `time.monotonic`, when no run begins any more; None: never.

        Returns:
            Whether all runs are done, but for those that failed.
        """
        while True:
            candidates = iter(next_runs(finished))
            for worker in self._workers:
                if worker.run is None and (until is None or time.monotonic() < until):
                    self._give(worker, candidates)
            busy = [worker for worker in self._workers if worker.run is not None]
            if not busy:
                return next(iter(run for run in next_runs(finished) if run not in self.failed), None) is None
            ready = connection.wait([of for worker in busy for of in (worker.pipe, worker.process.sentinel)])
            for worker in busy:
                if worker.pipe in ready or worker.process.sentinel in ready:
                    self._listen(worker, finished)

    def close(self) -> None:
        """End the workers; none is busy."""
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join(10)
            if worker.process.is_alive():
                worker.process.kill()

    def _give(self, worker: Worker, candidates: Iterator[Run]) -> None:
        taken = {each.run for each in self._workers}
        run = next((run for run in candidates if run not in taken and run not in self.failed), None)
        if run is not None:
            try:
                worker.pipe.send(run)
            except OSError:
                self._replace(worker)
                worker.pipe.send(run)
            worker.run = run

    def _listen(self, worker: Worker, finished: dict[Run, float]) -> None:
        run = worker.run
        assert run is not None
        try:
            dev, said = worker.pipe.recv()
        except (EOFError, OSError):
            self._bury(worker, run)
            return
        worker.run = None
        if dev is None:
            self.failed[run] = said
            self.say(f"{run.name} failed, and is left out:\n{said}")
            return
        finished[run] = dev
        self.say(said)

    def _bury(self, worker: Worker, run: Run) -> None:
        self._deaths[run] += 1
        self._replace(worker)
        again = self._deaths[run] < TRIES
        fate = "It is done again." if again else "It is left out, since it has ended several workers."
        self.say(f"The worker of {run.name} has ended (exit code {self._code}). {fate}")
        if not again:
            self.failed[run] = f"It has ended {TRIES} workers."

    def _replace(self, worker: Worker) -> None:
        worker.process.join(10)
        self._code = worker.process.exitcode
        worker.pipe.close()
        fresh = self._started()
        worker.process, worker.pipe, worker.run = fresh.process, fresh.pipe, None


def _work(setup: Setup, pipe: Connection) -> None:
    """Carry out runs until the parent has ended, or has closed the pipe."""
    torch.set_num_threads(setup.threads)
    bench = Bench(setup.folder, setup.plan, setup.device, searches=setup.searches)
    if bench.device.type == "cuda":
        torch.zeros(1, device=bench.device)  # what CUDA needs is loaded while the parent prepares
    parent = parent_process()
    assert parent is not None

    def watch(done: int, total: int) -> None:  # noqa: ARG001
        if not parent.is_alive():
            os._exit(1)

    while True:
        try:
            run: Run = pipe.recv()
        except (EOFError, OSError):
            return
        with _at_work(setup.folder):
            # A parent that was killed meanwhile has a successor, which may do this run itself once the lock is free.
            if not parent.is_alive():
                return
            answer: tuple[float | None, str]
            try:
                answer = one_run(bench, run, watch)
            except Exception:  # told to the parent; other runs may do better
                answer = None, traceback.format_exc(limit=-4)
        try:
            pipe.send(answer)
        except OSError:
            return


def one_run(bench: Bench, run: Run, watch: Callable[[int, int], None]) -> tuple[float, str]:
    """Train one student.

    Args:
        bench: the folder.
        run: the run.
        watch: told how many steps of how many are taken.

    Returns:
        Nats per byte of the dev texts, and what to say of the run.
    """
    started = time.monotonic()
    end = carry_out(bench, run, arm_of(run), watch)
    dev = next(row["nats_per_byte"] for row in reversed(bench.journal(run).rows) if row["kind"] == "dev")
    test = "" if bench.searches else f", test {end['nats_per_byte']:.4f}"
    error = f", given up: {end['error']}" if "error" in end else ""
    return dev, (
        f"{time.strftime('%H:%M:%S')} {run.name}: dev {dev:.4f}{test} nats a byte, {time.monotonic() - started:.0f} s, "
        f"{end['seconds']:.0f} s of them training{error}"
    )


@contextmanager
def _at_work(folder: Path) -> Iterator[None]:
    """Share a lock while a run is under way, so that a new parent waits for the workers of one that was killed."""
    with (folder / "workers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, in which one command trains at a time.

    Args:
        folder: the folder.

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
        with (folder / "workers.lock").open("w") as workers:
            fcntl.flock(workers, fcntl.LOCK_EX)
        yield
