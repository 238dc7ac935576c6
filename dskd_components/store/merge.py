"""Putting stores together: shards need nothing but to lie in one folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from dskd_components.errors import StoreError, what_came
from dskd_components.store.build import write_index
from dskd_components.store.files import UNFINISHED, naming, put_in_place
from dskd_components.store.manifest import FILE as MANIFEST_FILE
from dskd_components.store.manifest import Manifest
from dskd_components.store.shards import PATTERN, Shard
from dskd_components.store.teacher_tensors import PATTERN as TEACHER_PATTERN
from dskd_components.store.teacher_tensors import teacher_file

if TYPE_CHECKING:
    from collections.abc import Sequence


def folders_of(parts: Iterable[str | Path]) -> list[Path]:
    """Return the folders of parts, once they are known to be a list of folders.

    Args:
        parts: paths.

    Raises:
        StoreError: they are none.
    """
    is_one = isinstance(parts, str | bytes | PathLike | Mapping) or not isinstance(parts, Iterable)
    listed: list[Any] = [parts] if is_one else list(parts)
    wrong = [part for part in listed if is_one or not isinstance(part, str | PathLike)]
    if wrong:
        raise StoreError(
            f"parts: expected a list of folders of stores, got {what_came(wrong[0])}{'' if is_one else ' in it'}. "
            "Write TeacherStore.merge(folder, ['part-0', 'part-1']); the folder of a TeacherStore is its .folder."
        )
    return [Path(part) for part in listed]


def merge(folder: Path, parts: Sequence[Path]) -> None:
    """Put the shards of several stores into one folder.

    Args:
        folder: of the whole.
        parts: folders of stores, which stay as they are.

    Raises:
        StoreError: a part is no store or a damaged one, or the parts are not of one teacher.
    """
    if not parts:
        raise StoreError("merge: expected the folders of one store or more, got none.")
    manifests = {part: Manifest.read(part) for part in parts}
    if (folder / MANIFEST_FILE).is_file():
        manifests = {folder: Manifest.read(folder)} | manifests
    (first, manifest), *others = manifests.items()
    for part, other in others:
        manifest.require_same(other, source=f"{part}, put together with {first},")
    # All of them are looked at before anything is written.
    for part in parts:
        for shard in part.glob(PATTERN):
            Shard(shard)
    with naming(folder, "the store cannot be written there"):
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.glob(TEACHER_PATTERN)):
            _bring(teacher_file(parts[0]), folder)
        for part in parts:
            for shard in sorted(part.glob(PATTERN)):
                _bring(shard, folder)
    if not (folder / MANIFEST_FILE).is_file():
        beginnings = all(each.beginnings for each in manifests.values())
        manifest.model_copy(update={"beginnings": beginnings}).write(folder)
    write_index(folder)


def _bring(file: Path, folder: Path) -> None:
    """Link a file into a folder, or copy it where links do not go; a file of that name has that content already."""
    place = folder / file.name
    if place.exists():
        return
    try:
        os.link(file, place)
    except OSError:
        unfinished = folder / f"{UNFINISHED}{uuid4().hex}"
        try:
            shutil.copyfile(file, unfinished)
            put_in_place(unfinished, place)
        finally:
            unfinished.unlink(missing_ok=True)
