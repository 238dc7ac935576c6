"""Reading while others save: what is read is of one save, the old one or the new one."""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dskd_components import CheckpointError
from dskd_components.loss.checkpoints import files, read_checkpoint
from tests.helpers.processes import forkserver, started
from tests.helpers.saving_in_a_loop import RATES, loss_of, multi_teacher_loss_of, save_in_a_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = 1.0
FILES = {"projectors.json", "projectors.safetensors"}


def rate_in(folder: Path) -> float:
    """The rate that a checkpoint was saved with, in its description and in all of its tensors."""
    saved = read_checkpoint(folder)
    rate = float(saved.description.spec["kd_rate"])
    assert all((tensor == rate).all() for tensor in saved.tensors.values())
    return rate


def test_while_another_process_saves_all_is_of_one_save(tmp_path: Path) -> None:
    found = multi_teacher_loss_of(0.0)
    seen: tuple[set[float], set[float]] = (set(), set())
    begun = forkserver().Event()
    process = started(save_in_a_loop, tmp_path, begun)
    try:
        assert begun.wait(timeout=60)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            seen[0].add(rate_in(tmp_path / "single"))
            found.restore(tmp_path / "several")
            values = {value for parameter in found.parameters() for value in parameter.flatten().tolist()}
            assert len(values) == 1
            seen[1].update(values)
        assert process.is_alive()
    finally:
        process.kill()
        process.join()
    assert seen == (set(RATES), set(RATES))
    # Wherever it was killed.
    assert rate_in(tmp_path / "single") in RATES


# What a reader does with files, and what a writer does, in whatever order.
READING = ["pathlib.Path.is_file", "pathlib.Path.open", "safe_open", "pathlib.Path.read_text", "pathlib.Path.stat"]
WRITING = ["os.fsync", "pathlib.Path.unlink", "pathlib.Path.replace", "pathlib.Path.stat", "pathlib.Path.read_text"]


@contextmanager
def interrupted(function: str, call: int, act: Callable[[], None], *, afterwards: bool) -> Iterator[None]:
    """Have something done just before or after a call of a function, numbered from 0, on a file of a checkpoint."""
    module, _, name = function.rpartition(".")
    owner: Any = {"pathlib.Path": Path, "os": os, "": files}[module]
    original = getattr(owner, name)
    calls = -1

    def intruding(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        this = calls == call
        if this and not afterwards:
            act()
        try:
            return original(*args, **options)
        finally:
            if this and afterwards:
                act()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, intruding)
        yield


@pytest.mark.parametrize("saves", [1, 2])
@pytest.mark.parametrize("afterwards", [False, True])
@pytest.mark.parametrize("function", READING)
def test_a_save_at_any_step_of_reading(tmp_path: Path, function: str, afterwards: bool, saves: int) -> None:
    """Two saves come back to what there was before, in other files."""
    old, new = (loss_of(rate) for rate in RATES)

    def save() -> None:
        for loss in [new, old][:saves]:
            loss.save(tmp_path)

    for call in range(3):
        old.save(tmp_path)
        with interrupted(function, call, save, afterwards=afterwards):
            assert rate_in(tmp_path) in RATES
        assert rate_in(tmp_path) in RATES


@pytest.mark.parametrize("afterwards", [False, True])
@pytest.mark.parametrize("function", WRITING)
def test_reading_and_saving_at_any_step_of_a_save(tmp_path: Path, function: str, afterwards: bool) -> None:
    """Whoever reads at any time, and whoever saves: no reader is refused, and what is left can be read."""
    old, new = (loss_of(rate) for rate in RATES)
    for call in range(5):
        old.save(tmp_path)
        with interrupted(function, call, lambda: rate_in(tmp_path) and None, afterwards=afterwards):
            new.save(tmp_path)
        assert rate_in(tmp_path) == RATES[1]
        with interrupted(function, call, lambda: old.save(tmp_path), afterwards=afterwards):
            new.save(tmp_path)
        assert rate_in(tmp_path) in RATES
        assert {path.name for path in tmp_path.iterdir()} <= FILES


def test_a_save_that_stopped_between_teachers_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WAIT", 0.001)
    for folder, rate in (("old", 0.25), ("new", 0.75)):
        multi_teacher_loss_of(rate).save(tmp_path / folder)
    (tmp_path / "new" / "small").rename(tmp_path / "gone")
    (tmp_path / "old" / "small").rename(tmp_path / "new" / "small")
    other = multi_teacher_loss_of(0.0)
    with pytest.raises(
        CheckpointError, match=r"new/large, .*new/small: .* not of one save.*Take an earlier checkpoint"
    ):
        other.restore(tmp_path / "new")
    assert all((parameter == 0).all() for parameter in other.parameters())


def test_the_folder_that_cannot_be_written_to_is_named_and_all_others_stay(tmp_path: Path) -> None:
    multi_teacher_loss_of(0.25).save(tmp_path)
    (tmp_path / "small" / "projectors.safetensors").unlink()
    (tmp_path / "small" / "projectors.json").unlink()
    (tmp_path / "small").rmdir()
    (tmp_path / "small").write_text("a file")
    with pytest.raises(CheckpointError, match=r"small: the projectors cannot be saved there"):
        multi_teacher_loss_of(0.75).save(tmp_path)
    pair = multi_teacher_loss_of(0.0).pair("large")
    pair.restore(tmp_path / "large")
    assert all((parameter == 0.25).all() for parameter in pair.parameters())
    assert {path.name for path in (tmp_path / "large").iterdir()} == FILES


@pytest.mark.parametrize("name", ["large", "small"])
def test_the_folder_in_which_files_cannot_be_put_in_place_is_named(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def failing(file: Path, target: Path) -> Path:
        if target.parent.name == name:
            raise OSError(5, "Input/output error")
        return replace(file, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(CheckpointError, match=rf"{name}: the projectors cannot be saved there: Input/output error"):
        multi_teacher_loss_of(0.75).save(tmp_path)


def test_teachers_that_were_saved_one_by_one_go_together(tmp_path: Path) -> None:
    trained = multi_teacher_loss_of(0.5)
    for name in trained.spec.teachers:
        trained.pair(name).save(tmp_path / name)
    found = multi_teacher_loss_of(0.0)
    found.restore(tmp_path)
    assert all((parameter == 0.5).all() for parameter in found.parameters())


def test_teachers_come_back_all_or_none(tmp_path: Path) -> None:
    multi_teacher_loss_of(0.5).save(tmp_path)
    other = multi_teacher_loss_of(0.0)
    other.pair("small").double()
    with pytest.raises(CheckpointError, match=r"small.*\n.*float32.*float64"):
        other.restore(tmp_path)
    assert all((parameter == 0).all() for parameter in other.parameters())


def test_a_copy_that_stays_different_is_still_refused(tmp_path: Path) -> None:
    loss_of(0.25).save(tmp_path)
    file = tmp_path / "projectors.json"
    content = json.loads(file.read_text())
    content["spec"]["kd_rate"] = 0.75
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="it was changed"):
        read_checkpoint(tmp_path)
