"""What may be changed so that a step fits, and which changes cost the least."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from dskd_components.engines.tiled import Tiled
from dskd_components.preflight.plan import Remedy
from dskd_components.preflight.sharding import MASTER, MORE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dskd_components.preflight.plan import Setup, StepPlan
    from dskd_components.preflight.sharding import Sharding


def remedies(
    planned: StepPlan, plan: Callable[[Setup], StepPlan], *, can_checkpoint: bool, has_width: bool
) -> Iterator[Remedy]:
    """Yield changes after which the step fits: one that does alone, or the fewest together; the fastest first.

    Args:
        planned: the step that does not fit.
        plan: plans a step of another setup.
        can_checkpoint: whether the student's activations may be computed again.
        has_width: whether a trainer can fill in the bucket of gradients by the student's configuration.
    """
    changes = _changes(planned.setup, can_checkpoint=can_checkpoint, has_width=has_width)
    kinds = [kind for kind in map(list, changes) if kind]
    for number in range(1, len(kinds) + 1):
        found = []
        for chosen in itertools.combinations(kinds, number):
            for several in itertools.product(*chosen):
                setup = planned.setup
                for change in several:
                    setup = change.apply(setup)
                changed = plan(setup)
                if changed.fits:
                    words = " and ".join(change.words for change in several)
                    options = " ".join(change.options for change in several)
                    found.append(Remedy(words, options, changed.seconds, changed.bytes, setup))
        if found:
            yield from sorted(found, key=lambda remedy: (remedy.seconds, remedy.bytes))[:SHOWN]
            return


SHOWN: Final = 3
"""How many are shown."""


class _Change(NamedTuple):
    """Something that may be changed: in words, as options of the command line, and in the setup."""

    words: str
    options: str
    apply: Callable[[Setup], Setup]


SMALL_BUDGET: Final = 64
"""MiB for the loss, below which tiles get slow and little is saved."""


def _changes(setup: Setup, *, can_checkpoint: bool, has_width: bool) -> Iterator[Iterator[_Change]]:
    """Yield the kinds of changes, each as its alternatives, of which those that cost less come first."""
    if has_width and setup.sharding in MASTER and setup.reduce_bucket_size != "auto":
        words = 'reduce_bucket_size "auto" in the trainer\'s DeepSpeed file'
        yield iter([_Change(words, "--reduce-bucket-size auto", lambda at: replace(at, reduce_bucket_size="auto"))])
    engine = setup.spec.engine
    if not isinstance(engine, Tiled) or engine.budget_bytes() > SMALL_BUDGET * 2**20:
        of_tiles = "" if isinstance(engine, Tiled) else "the engine 'tiled', with "
        words = f"{of_tiles}a memory budget of {SMALL_BUDGET} MiB for the loss"
        yield iter([_Change(words, f"--memory-budget {SMALL_BUDGET}", lambda at: at.with_budget(SMALL_BUDGET))])
    yield _teacher_changes(setup)
    yield _sharding_changes(setup)
    yield _batch_changes(setup)
    if can_checkpoint and not setup.checkpointing:
        words = "checkpointing of activations"
        yield iter([_Change(words, "--checkpointing", lambda at: replace(at, checkpointing=True))])


def _teacher_changes(setup: Setup) -> Iterator[_Change]:
    if setup.teacher != "store":
        yield _Change("the teacher's states from a store", "--teacher store", lambda at: replace(at, teacher="store"))
    if setup.teacher == "replicated" and setup.devices > 1:
        yield _Change("a sharded teacher", "--teacher sharded", lambda at: replace(at, teacher="sharded"))


def _sharding_changes(setup: Setup) -> Iterator[_Change]:
    more = MORE.get(setup.sharding) if setup.devices > 1 else None
    while more is not None:
        apply = partial(_with_sharding, more)
        yield _Change(f"sharding by {more}", f"--sharding {more}", apply)
        more = MORE.get(more)


def _with_sharding(sharding: Sharding, setup: Setup) -> Setup:
    return replace(setup, sharding=sharding)


def _batch_changes(setup: Setup) -> Iterator[_Change]:
    """Yield smaller micro-batches: half as large, a quarter, and single samples."""
    tried = dict.fromkeys((2, 4, setup.rows))
    for times in tried:
        if 1 < times <= setup.rows:
            apply = partial(_with_accumulation, setup.accumulation * times)
            yield _Change("smaller micro-batches", f"--accumulation {setup.accumulation * times}", apply)


def _with_accumulation(accumulation: int, setup: Setup) -> Setup:
    return replace(setup, accumulation=accumulation)
