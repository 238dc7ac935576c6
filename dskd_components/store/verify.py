"""Whether a store is what was written, and whether that is what the teacher makes of the samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from dskd_components.errors import DSKDError, StoreError
from dskd_components.store.index import FILE as INDEX_FILE
from dskd_components.store.index import Index
from dskd_components.store.manifest import teacher_fingerprint
from dskd_components.store.run_teacher import TeacherRun, Tokens
from dskd_components.store.shards import PATTERN, Shard
from dskd_components.store.teacher_tensors import problems_of_teacher

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dskd_components.models.wrappers import CausalLM
    from dskd_components.store.reader import Reader

TOLERANCES = {"float32": 1e-4, "bfloat16": 1e-2, "int8": 3e-2}
"""By which share of their length states may differ from those that are computed again, by format. Batches of other
shapes round otherwise, and a teacher in bfloat16 does so by as much as the format itself."""


@dataclass(frozen=True)
class VerifyReport:
    """What `TeacherStore.verify` has found.

    Args:
        samples: how many samples the store has.
        states: how many states.
        problems: what is wrong, a sentence each.
        recomputed: how many samples were computed again.
        relative_error: the largest length of a difference between a stored and a recomputed state, as a share of the
            state's own length; None: nothing was recomputed.
        mean_relative_error: its mean over all states that were recomputed.
    """

    samples: int
    states: int
    problems: tuple[str, ...]
    recomputed: int = 0
    relative_error: float | None = None
    mean_relative_error: float | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(reader: Reader, teacher: CausalLM | None, *, samples: int, seed: int, batch_size: int) -> VerifyReport:
    """Look at all files of a store and, with a teacher, at what it makes of some samples; see `TeacherStore.verify`.

    Args:
        reader: of the store.
        teacher: the teacher, or None.
        samples: how many samples are computed again.
        seed: which ones.
        batch_size: how many are run together.
    """
    problems = [*problems_of_teacher(reader.folder), *_problems_of_shards(reader), *_problems_of_index(reader)]
    states = 0
    for name in reader.index.names:
        try:
            states += int(reader.shard(name).state_start[-1])
        except StoreError:  # named above
            continue
    if teacher is None or problems or not len(reader):
        return VerifyReport(len(reader), states, tuple(problems))
    if teacher_fingerprint(teacher) != reader.manifest.teacher:
        problems.append("the teacher has other weights or adapters than the one that made the states")
    chosen = np.random.default_rng(seed).permutation(len(reader))[:samples].tolist()
    try:
        errors = torch.cat(list(_errors(reader, teacher, chosen, batch_size)))
    except DSKDError:
        if not problems:
            raise
        # Of another teacher, which is told of: it cannot read these tokens, or has states of another width.
        return VerifyReport(len(reader), states, tuple(problems))
    largest = float(errors.max())
    allowed = TOLERANCES[reader.manifest.states]
    if reader.manifest.computed_in not in ("float32", "float64"):
        allowed = max(allowed, TOLERANCES["int8"])
    if largest > allowed:
        problems.append(
            f"the teacher gives other states: they differ by up to {largest:.2g} of their length, where "
            f"{reader.manifest.states} differs by less than {allowed:g}"
        )
    return VerifyReport(len(reader), states, tuple(problems), len(chosen), largest, float(errors.mean()))


def _problems_of_shards(reader: Reader) -> Iterator[str]:
    present = {path.name for path in reader.folder.glob(PATTERN)}
    for name in sorted(set(reader.index.names) - present):
        yield f"{name}: the file is gone"
    for name in sorted(present):
        try:
            yield from Shard(reader.folder / name).problems()
        except StoreError as error:
            yield str(error)


def _problems_of_index(reader: Reader) -> Iterator[str]:
    """Compare the index on disk with one that is made from the shards."""
    if not (reader.folder / INDEX_FILE).is_file():
        yield f"{INDEX_FILE}: there is none, so the build was not finished; run it again"
        return
    try:
        names = sorted(path.name for path in reader.folder.glob(PATTERN))
        same = Index.of_shards((name, Shard(reader.folder / name)) for name in names).is_written(reader.folder)
    except StoreError:  # a shard is damaged, which is told of
        return
    if not same:
        yield f"{INDEX_FILE}: it is damaged or does not know all shards. Delete it: it is made again by the next build"


def _errors(reader: Reader, teacher: CausalLM, chosen: Sequence[int], batch_size: int) -> Iterator[torch.Tensor]:
    """Yield ``[N]``: by which share of its length each state differs."""
    run = TeacherRun(teacher)
    stored = [reader.sample(number) for number in chosen]
    for start in range(0, len(stored), batch_size):
        part = stored[start : start + batch_size]
        computed = run.states([Tokens(sample.input_ids, sample.stored) for sample in part])
        for sample, states in zip(part, computed, strict=True):
            width, stored_width = states.shape[-1], reader.manifest.hidden_size
            if width != stored_width:
                raise StoreError(f"the teacher's states are {width} wide, those of the store {stored_width}.")
            length = states.float().norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
            yield (sample.states.decode().float() - states.float()).norm(dim=-1) / length
