"""A cache is filled by the first epoch and read by the second; both learn the same."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils.data import DataLoader

from dskd_components import DSKDSpec, ReadAheadCollator, TeacherCache, TeacherStore
from dskd_components.errors import InputError, StoreError
from dskd_components.store import files
from tests.helpers.models import byte_level_tokenizer, tiny_model
from tests.helpers.stores import build, collator, contents, loss_of, same, samples, stepped, student, teacher

if TYPE_CHECKING:
    from pathlib import Path

SPEC = DSKDSpec.preset("dskd-cma", aligner={"name": "cma", "std": "sample"})


class Counting:
    """Counts the samples that a teacher reads."""

    def __init__(self, model: Any) -> None:
        self.rows = 0
        self._handle = model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, __: Any, inputs: dict[str, Any]) -> None:
        self.rows += len(inputs["input_ids"])

    def stop(self) -> int:
        self._handle.remove()
        return self.rows


def cache_at(folder: Path, **options: Any) -> TeacherCache:
    return TeacherCache(folder, teacher(), byte_level_tokenizer(), **({"dtype": "float32"} | options))


def epoch(cache: Any, loss_fn: Any, learner: Any, collate: Any, order: list[int]) -> list[list[torch.Tensor]]:
    data = samples()
    batches = [collate([data[number] for number in order[first : first + 3]]) for first in range(0, len(order), 3)]
    return [stepped(loss_fn, learner, cache, batch) for batch in batches]


@pytest.mark.parametrize("layout", [{}, {"packing": True}, {"padding_side": "left"}])
@pytest.mark.parametrize("ahead", [False, True])
def test_the_second_epoch_is_read(layout: dict[str, Any], ahead: bool, tmp_path: Path) -> None:
    cache, learner = cache_at(tmp_path, shard_bytes=5000), student()
    loss_fn = loss_of(SPEC, cache, learner=learner)
    collate: Any = collator(aligner="cma", **layout)
    collate = ReadAheadCollator(collate, cache) if ahead else collate
    order = list(range(12))
    counting = Counting(teacher())
    first = epoch(cache, loss_fn, learner, collate, order)
    assert counting.rows == 12
    second = epoch(cache, loss_fn, learner, collate, order)
    backwards = epoch(cache, loss_fn, learner, collate, order[::-1])
    assert counting.stop() == 12, "nothing is computed twice"
    assert len(backwards) == len(second)
    live = epoch(teacher(), loss_fn, learner, collator(aligner="cma", **layout), order)
    for ours, again, theirs in zip(first, second, live, strict=True):
        assert all(map(torch.equal, ours, again))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    cache.flush()
    assert same(TeacherStore(tmp_path), build(tmp_path / "built"), within=2e-6)
    assert cache.verify(teacher()).passed


def test_rounded_states_are_the_same_in_every_epoch(tmp_path: Path) -> None:
    cache, learner = cache_at(tmp_path, dtype="int8"), student()
    loss_fn, batch = loss_of(SPEC, cache, learner=learner), collator(aligner="cma")(samples())
    first, second = (stepped(loss_fn, learner, cache, batch) for _ in range(2))
    cache.flush()
    third = stepped(loss_fn, learner, TeacherStore(tmp_path), batch)
    assert all(
        torch.equal(one, two) and torch.equal(one, three) for one, two, three in zip(first, second, third, strict=True)
    )


def test_workers_find_what_was_written_since_they_began(tmp_path: Path) -> None:
    cache, learner = cache_at(tmp_path, shard_bytes=1), student()
    loss_fn = loss_of(SPEC, cache, learner=learner)
    loader = DataLoader(
        samples(),  # type: ignore[arg-type]
        batch_size=4,
        collate_fn=ReadAheadCollator(collator(aligner="cma"), cache),
        num_workers=1,
        persistent_workers=True,
    )
    came = []
    for _ in range(2):
        for batch in loader:
            came.append(int((batch["teacher_store_positions"] >= 0).sum()))
            loss_fn.run(learner, cache, batch)
    assert came[0] == 0
    assert all(came[3:])


def test_runs_share_a_folder(tmp_path: Path) -> None:
    """As ranks do: each sees what the others have written, and nobody's file is in another's way."""
    caches, learner = [cache_at(tmp_path, shard_bytes=1) for _ in range(2)], student()
    loss_fn = loss_of(SPEC, caches[0], learner=learner)
    halves = [collator(aligner="cma")(samples()[first::2]) for first in (0, 1)]
    for cache, half in zip(caches, halves, strict=True):
        loss_fn.run(learner, cache, half)
    counting = Counting(teacher())
    for cache, half in zip(caches, halves[::-1], strict=True):
        loss_fn.run(learner, cache, half)
    assert counting.stop() == 0
    assert len(contents(TeacherStore(tmp_path))) == 12


def test_what_is_in_memory_is_written_when_the_cache_goes(tmp_path: Path) -> None:
    cache, learner = cache_at(tmp_path), student()
    loss_of(SPEC, cache, learner=learner).run(learner, cache, collator(aligner="cma")(samples()))
    assert not len(TeacherStore(tmp_path))
    del cache
    gc.collect()
    assert len(TeacherStore(tmp_path)) == 12
    assert TeacherStore(tmp_path).verify(teacher()).passed


PROGRAM = """
import sys
from tests.store.test_cache import *
cache, learner = cache_at(sys.argv[1]), student()
loss_of(SPEC, cache, learner=learner).run(learner, cache, collator(aligner="cma")(samples()))
"""


@pytest.mark.slow
def test_what_is_in_memory_is_written_at_the_end_of_the_program(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=True)
    assert len(TeacherStore(tmp_path)) == 12


def test_a_full_disk_is_named_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, learner = cache_at(tmp_path, shard_bytes=1), student()
    loss_fn, batch = loss_of(SPEC, cache, learner=learner), collator(aligner="cma")(samples())

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "save_file", full)
        with pytest.raises(StoreError, match="No space left on device"):
            loss_fn.run(learner, cache, batch)
    counting = Counting(teacher())
    loss_fn.run(learner, cache, batch)
    cache.flush()
    assert counting.stop() == 0, "it was still in memory"
    assert len(TeacherStore(tmp_path)) == 12


def test_another_teacher_is_refused(tmp_path: Path) -> None:
    cache_at(tmp_path)
    with pytest.raises(StoreError, match="does not go together with this store"):
        TeacherCache(tmp_path, tiny_model("Llama", hidden_size=32, vocabulary=320), byte_level_tokenizer())
    wrong: Any = TeacherStore(tmp_path).reader
    with pytest.raises(InputError, match="teacher: expected a causal language model, got Reader"):
        TeacherCache(tmp_path, wrong)
