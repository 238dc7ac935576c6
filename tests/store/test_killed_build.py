"""A build that is killed at any moment goes on to the store that it would have been: no sample lost, none doubled."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dskd_components import TeacherStore
from tests.helpers.interrupted_build import COUNT, OPTIONS, build_what_is_asked_for
from tests.helpers.processes import forkserver, started
from tests.helpers.stores import build, contents, same, samples, teacher

if TYPE_CHECKING:
    from pathlib import Path

SEED = 0
MOMENTS = int(os.environ.get("DSKD_KILL_MOMENTS", "5"))
"""At how many moments a build is killed; 50 for a thorough look."""


class Builder:
    """A process that builds in children of its own."""

    def __init__(self) -> None:
        self._pipe, its_end = forkserver().Pipe()
        self._process = started(build_what_is_asked_for, its_end)
        its_end.close()
        assert self._pipe.recv() == "ready"

    def build(self, folder: Path, *, killed_after: float | None = None) -> float:
        """Build, or begin to; return how long it took."""
        self._pipe.send(folder)
        child, start = self._pipe.recv(), time.monotonic()
        if killed_after is not None:
            time.sleep(killed_after)
            # It is the builder's own child, and until the builder has seen its end nobody else has its number.
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        assert self._pipe.recv() == "ended"
        return time.monotonic() - start

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def test_a_killed_build_resumes_to_the_same_store(tmp_path: Path) -> None:
    whole = build(tmp_path / "whole", samples(COUNT), **OPTIONS)
    names = {path.name for path in whole.folder.glob("states-*")}
    assert len(names) > 4
    builder, generator, unfinished = Builder(), np.random.default_rng(SEED), 0
    try:
        builder.build(tmp_path / "first")
        takes = builder.build(tmp_path / "timed")
        for number in range(MOMENTS):
            folder = tmp_path / str(number)
            builder.build(folder, killed_after=takes * generator.uniform(0.0, 1.0))
            unfinished += not (folder / "index.safetensors").exists()
            resumed = build(folder, samples(COUNT), **OPTIONS)
            assert contents(resumed).keys() == contents(whole).keys()
            assert same(resumed, whole)
            assert {path.name for path in folder.glob("states-*")} == names
            assert resumed.verify(teacher()).passed
    finally:
        builder.end()
    assert unfinished, "some of the builds were cut short"


@pytest.mark.parametrize("after", range(5))
def test_every_number_of_finished_shards_is_a_state_to_go_on_from(after: int, tmp_path: Path) -> None:
    """As killing does, but at each step for certain: in the midst of a file, and after it is in place."""
    whole = build(tmp_path / "whole", samples(COUNT), **OPTIONS)
    build(tmp_path / "cut", samples(COUNT), **OPTIONS)
    written = sorted((tmp_path / "cut").glob("states-*"), key=lambda path: path.stat().st_mtime_ns)
    for path in written[after:]:
        path.unlink()
    (tmp_path / "cut" / "index.safetensors").unlink()
    (tmp_path / "cut" / ".unfinished-0").write_bytes(b"half a shard")
    assert len(TeacherStore(tmp_path / "cut")) < COUNT
    resumed = build(tmp_path / "cut", samples(COUNT), **OPTIONS)
    assert same(resumed, whole)
    names = {path.name for path in resumed.folder.iterdir()}
    assert names - {".unfinished-0"} == {path.name for path in whole.folder.iterdir()}
