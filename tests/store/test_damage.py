"""A bit that flips, a file that is cut, a disk that is full: an error with a name, never another number."""

from __future__ import annotations

import errno
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from dskd_components import ReadAheadCollator, TeacherStore
from dskd_components.errors import StoreError
from dskd_components.store import files
from tests.helpers.stores import build, collator, contents, same, samples, teacher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("sound"), samples(3), dtype="int8").folder


@pytest.fixture(scope="module")
def expected(sound: Path) -> dict[str, Tensor]:
    return read(sound)


def read(folder: Path, *, check: bool = True) -> dict[str, Tensor]:
    return ReadAheadCollator(collator(), TeacherStore(folder, check=check))(samples(3))


def outcome(attempt: Callable[[], Any]) -> Any:
    """What an attempt gives, be it an error with a name."""
    try:
        return attempt()
    except StoreError as error:
        return error


def flipped(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


@pytest.mark.parametrize("pattern", ["states-*", "teacher-*", "index.*"])
def test_a_bit_that_flips_anywhere_is_found(
    pattern: str, sound: Path, expected: dict[str, Tensor], tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    (file,) = sound.glob(pattern)
    size = 8 * file.stat().st_size
    # The header and the lists behind it are small, so that they are hit often enough among so many.
    header = 8 * (8 + int.from_bytes(file.read_bytes()[:8], "little"))
    bits = [*generator.integers(0, header, size=12).tolist(), *generator.integers(header, size, size=25).tolist()]
    for number, bit in enumerate(bits):
        folder = tmp_path / str(number)
        shutil.copytree(sound, folder)
        flipped(folder / file.name, bit)
        store = outcome(lambda folder=folder: TeacherStore(folder))
        if isinstance(store, StoreError):
            assert str(folder) in str(store)
            continue
        report = store.verify()
        assert any(file.name in problem for problem in report.problems)
        found = outcome(lambda folder=folder: read(folder))
        if isinstance(found, StoreError):
            assert str(folder) in str(found)
        else:
            assert all(torch.equal(found[name], expected[name]) for name in expected), bit


@pytest.mark.parametrize("field", ["hidden_size", "states"])
def test_a_manifest_that_tells_of_other_states_is_refused(field: str, sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "store")
    file = tmp_path / "store" / "manifest.json"
    told = {"hidden_size": ("80", "81"), "states": ('"int8"', '"float32"')}[field]
    file.write_text(file.read_text().replace(f'"{field}": {told[0]}', f'"{field}": {told[1]}', 1))
    with pytest.raises(StoreError, match="damaged"):
        read(tmp_path / "store")


def test_without_checks_nothing_is_compared_and_verify_still_finds_it(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "store")
    (file,) = (tmp_path / "store").glob("states-*")
    about = files.TensorFile(file)
    flipped(file, 8 * about.offset("states") + 3)
    with pytest.raises(StoreError, match=r"the checksum of sample \d is not the one that was written"):
        read(tmp_path / "store")
    read(tmp_path / "store", check=False)
    assert not TeacherStore(tmp_path / "store").verify().passed


@pytest.mark.parametrize("pattern", ["states-*", "teacher-*", "index.*", "manifest.*"])
@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_a_file_that_is_cut_short_is_named_or_made_again(
    pattern: str, left: float, sound: Path, tmp_path: Path
) -> None:
    shutil.copytree(sound, tmp_path / "store")
    (file,) = (tmp_path / "store").glob(pattern)
    content = file.read_bytes()
    file.write_bytes(content[: int(left * len(content))])
    if pattern == "index.*":
        assert same(TeacherStore(tmp_path / "store"), TeacherStore(sound))
        return
    with pytest.raises(StoreError, match=file.name):
        read(tmp_path / "store")


def test_a_file_that_is_cut_short_while_it_is_read(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "store")
    store = TeacherStore(tmp_path / "store")
    collate = ReadAheadCollator(collator(), store)
    collate(samples(1))
    (file,) = (tmp_path / "store").glob("states-*")
    with file.open("r+b") as opened:
        opened.truncate(files.TensorFile(file).offset("states") + 1)
    with pytest.raises(StoreError, match=r"states-.* this file of the store is damaged: it ends too early"):
        collate(samples(3))


def test_what_is_deleted_is_built_again(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "store")
    for pattern in ("states-*", "teacher-*", "index.*"):
        next((tmp_path / "store").glob(pattern)).unlink()
    store = build(tmp_path / "store", samples(3), dtype="int8")
    assert same(store, TeacherStore(sound))
    assert {path.name for path in store.folder.iterdir()} == {path.name for path in sound.iterdir()}


class FullDisk:
    """A disk on which so many files find room, and half of one more."""

    def __init__(self, room: int) -> None:
        self.room = room

    def save(self, tensors: Any, path: Any, **options: Any) -> None:
        self.room -= 1
        if self.room < 0:
            path.write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path, **options)


save_file = files.save_file


@pytest.mark.parametrize("room", range(5))
def test_a_full_disk_loses_nothing_that_was_written(room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build(tmp_path / "whole", shard_bytes=1, batch_size=6)
    with monkeypatch.context() as patch:
        patch.setattr(files, "save_file", FullDisk(room).save)
        if room < 4:  # the head, two shards, the index
            with pytest.raises(StoreError, match=r"No space left on device. Make room, and run the same build again"):
                build(tmp_path / "store", shard_bytes=1, batch_size=6)
        else:
            build(tmp_path / "store", shard_bytes=1, batch_size=6)
    assert not list((tmp_path / "store").glob(f"{files.UNFINISHED}*"))
    assert len(list((tmp_path / "store").glob("states-*"))) == min(max(room - 1, 0), 2)
    resumed = build(tmp_path / "store", shard_bytes=1, batch_size=6)
    assert same(resumed, whole)
    assert contents(resumed)
    assert resumed.verify(teacher()).passed


def test_a_folder_that_may_not_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match=r"file: the store cannot be written there"):
        build(tmp_path / "file")
    with pytest.raises(StoreError, match=r"the store cannot be written there"):
        build(tmp_path / "file" / "below")
