"""Files of a store: put in place whole or not at all, under names that say what is in them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import numpy as np
from safetensors.torch import save, save_file

from dskd_components.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

UNFINISHED: Final = ".unfinished-"
"""How the names of files begin that are being written; a process that was killed leaves them behind."""

HEADER: Final = "dskd_components"
"""The key of what a safetensors file of a store says of itself."""

DIGEST_LENGTH: Final = 32
"""How many hexadecimal digits of a SHA-256 are in the name of a shard."""

CHUNK: Final = 2**22


@contextmanager
def naming(place: Path, what: str) -> Iterator[None]:
    """Say which file could not be written or read, and what to do.

    Args:
        place: of the file or folder.
        what: what was being done, ``"cannot be written"``.

    Raises:
        StoreError: the system refused.
    """
    try:
        yield
    except OSError as error:
        advice = "Check that the path is right and that it may be used."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "Make room, and run the same build again: it goes on where it stopped, and what was written stays."
        raise StoreError(f"{place}: {what}: {error.strerror or error}. {advice}") from error


def write_text(file: Path, text: str) -> None:
    """Put a text file in place, whole.

    Args:
        file: its place; an older one there is replaced.
        text: its content.

    Raises:
        StoreError: it cannot be written.
    """
    with naming(file, "it cannot be written"), _unfinished(file.parent) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
        put_in_place(unfinished, file)


def write_tensors(folder: Path, name: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Path:
    """Put a safetensors file in place, whole.

    Args:
        folder: where; it must be there.
        name: of the file; ``{digest}`` in it becomes what the SHA-256 of the file begins with.
        tensors: by name.
        about: what the file says of itself.

    Returns:
        Its path. A file of that name that is there already has the same content, and is replaced by it.

    Raises:
        StoreError: it cannot be written.
    """
    with naming(folder, "the store cannot be written there"), _unfinished(folder) as unfinished:
        save_file(_contiguous(tensors), unfinished, metadata=_metadata(about))
        place = folder / name.format(digest=digest_of_file(unfinished))
        put_in_place(unfinished, place)
    return place


def as_bytes(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """Return what `write_tensors` would write.

    Args:
        tensors: by name.
        about: what the file says of itself.
    """
    content: bytes = save(_contiguous(tensors), metadata=_metadata(about))
    return content


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def _metadata(about: Mapping[str, Any]) -> dict[str, str]:
    # One entry alone: the order of several in the file would differ from process to process.
    return {HEADER: json.dumps(about, sort_keys=True)}


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """Give a path for a new file beside its place; whatever is left there afterwards is deleted."""
    path = folder / f"{UNFINISHED}{uuid4().hex}"
    try:
        yield path
    except Exception as error:
        if isinstance(error, OSError) or type(error).__name__ != "SafetensorError":
            raise
        # safetensors writes by itself, and reports what the system says in its own words.
        full = "No space left" in str(error) or "os error 28" in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from error
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def put_in_place(unfinished: Path, place: Path) -> None:
    """Give a file that was written its name, so that even a loss of power leaves all of it or nothing.

    Args:
        unfinished: the file.
        place: its place, in the same folder.
    """
    with unfinished.open("rb") as opened:
        os.fsync(opened.fileno())
    unfinished.replace(place)
    if os.name == "nt":  # where folders cannot be opened, and need not be
        return
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def digest_of_file(file: Path) -> str:
    """Return what the SHA-256 of a file begins with, in hexadecimal.

    Args:
        file: its path.
    """
    found = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()[:DIGEST_LENGTH]


NUMPY: Final = {"F32": "<f4", "BF16": "<u2", "I8": "i1", "I32": "<i4", "I64": "<i8", "BOOL": "?", "U8": "u1"}
"""How numpy reads the dtypes of safetensors that a store uses; bfloat16, which it does not know, as its bits."""


class TensorFile:
    """A safetensors file of which parts are read, without the rest and without mapping it into memory.

    A file that somebody cuts short while it is mapped ends the process; one that is read gives an error with a name.

    Args:
        path: of the file.

    Raises:
        StoreError: there is none, or its header is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with naming(path, "it cannot be read"):
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        size = os.fstat(self._descriptor).st_size
        try:
            length = int.from_bytes(self._read_at(0, 8), "little")
            header = json.loads(self._read_at(8, min(length, size)))
            self.about: dict[str, Any] = json.loads(header.pop("__metadata__")[HEADER])
            self._start = 8 + length
            self._tensors = {
                name: (np.dtype(NUMPY[entry["dtype"]]), tuple(entry["shape"]), *entry["data_offsets"])
                for name, entry in header.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.close()
            raise self.damaged("its header cannot be read") from error
        if self._start + max((stop for *_, stop in self._tensors.values()), default=0) != size:
            self.close()
            raise self.damaged(f"it has {size} bytes, not those that its header tells of")

    def damaged(self, what: str) -> StoreError:
        """Return the error of a damaged file.

        Args:
            what: what is wrong with it.
        """
        return StoreError(
            f"{self.path}: this file of the store is damaged: {what}. `dskd store verify` says what else is. Delete "
            "the file and run the same build again: it fills the gap."
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Args:
            name: of the tensor.

        Raises:
            StoreError: there is no such tensor.
        """
        if name not in self._tensors:
            raise self.damaged(f"it has no tensor {name!r}")
        found: tuple[int, ...] = self._tensors[name][1]
        return found

    def offset(self, name: str) -> int:
        """Return where in the file a tensor begins, in bytes.

        Args:
            name: of the tensor.
        """
        return int(self._start + self._tensors[name][2])

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray[Any, Any]:
        """Return some rows of a tensor, in memory of their own.

        Args:
            name: of the tensor.
            start: the first row.
            stop: the row after the last one; None: all that follow.

        Raises:
            StoreError: there is no such tensor, or the file ends before them.
        """
        count, *rest = self.shape(name)
        stop = count if stop is None else stop
        dtype, _, first, _ = self._tensors[name]
        row = dtype.itemsize * int(np.prod(rest, dtype=np.int64))
        if not 0 <= start <= stop <= count:
            raise self.damaged(f"rows {start} to {stop} of {name!r} are asked for, and there are {count}")
        wanted, place = row * (stop - start), self._start + first + row * start
        with naming(self.path, "it cannot be read"):
            content = bytearray(self._read_at(place, wanted))
            while len(content) < wanted:  # systems read two gigabytes at once at most
                more = self._read_at(place + len(content), wanted - len(content))
                if not more:
                    raise self.damaged("it ends too early")
                content += more
        return np.frombuffer(content, dtype=dtype).reshape(stop - start, *rest)

    def _read_at(self, place: int, count: int) -> bytes:
        """Return up to so many bytes from a place on. Forked workers share the descriptor, but no place in the file."""
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, count, place)
        os.lseek(self._descriptor, place, os.SEEK_SET)
        return os.read(self._descriptor, count)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self.close()
