"""A shard: some samples' tokens and the states of their positions, in one safetensors file.

Nothing in a shard refers to another file, and its name begins with ``states-`` and goes on with its digest. So shards
of two stores of one teacher can be put into one folder, and a file that has changed no longer bears its name.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from dskd_components.store.files import TensorFile, digest_of_file, write_tensors
from dskd_components.store.formats import DTYPES, StoredStates, groups_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from dskd_components.store.formats import StateFormat
    from dskd_components.tokenization.arrays import BoolArray, IntArray

NAME: Final = "states-{digest}.safetensors"
PATTERN: Final = "states-*.safetensors"
FEW: Final = 4
"""Up to how many samples are compared one by one."""


@dataclass(frozen=True, eq=False)
class StoredSample:
    """What is stored of one sample.

    Args:
        input_ids: ``[T]``, int32: its tokens.
        stored: ``[T]``, bool: the positions whose states are stored.
        states: ``[N, d]``: these states, in the order of their positions.
    """

    input_ids: npt.NDArray[np.int32]
    stored: BoolArray
    states: StoredStates

    @property
    def checksum(self) -> int:
        """CRC-32 over tokens, positions and states, which finds any single bit that has changed."""
        found = zlib.crc32(np.ascontiguousarray(self.input_ids).data)
        found = zlib.crc32(np.ascontiguousarray(self.stored).data, found)
        for tensor in (self.states.values, self.states.scales):
            if tensor is not None:
                found = zlib.crc32(tensor.contiguous().view(torch.uint8).numpy().data, found)
        return found


def write_shard(folder: Path, samples: Sequence[StoredSample]) -> Path:
    """Write samples into a new shard.

    Args:
        folder: where.
        samples: one or more, with states of one format.

    Returns:
        Its path.

    Raises:
        StoreError: it cannot be written; nothing of it is left then.
    """
    tensors = {
        "input_ids": torch.from_numpy(np.concatenate([sample.input_ids for sample in samples])),
        "stored": torch.from_numpy(np.concatenate([sample.stored for sample in samples])),
        "token_start": _starts([len(sample.input_ids) for sample in samples]),
        "state_start": _starts([len(sample.states) for sample in samples]),
        "checksums": torch.tensor([sample.checksum for sample in samples], dtype=torch.int64, device="cpu"),
        "states": torch.cat([sample.states.values for sample in samples]),
    }
    scales = [sample.states.scales for sample in samples if sample.states.scales is not None]
    if scales:
        tensors["scales"] = torch.cat(scales)
    about = {"kind": "states", "samples": len(samples), "states": len(tensors["states"])}
    return write_tensors(folder, NAME, tensors, about)


def _starts(lengths: Sequence[int]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64))


class Shard:
    """A shard that is open for reading.

    Args:
        path: of its file.

    Raises:
        StoreError: it is damaged as far as can be told without reading its states.
    """

    def __init__(self, path: Path) -> None:
        self.file = TensorFile(path)
        self.token_start: IntArray = self.file.rows("token_start")
        self.state_start: IntArray = self.file.rows("state_start")
        self._checksums: IntArray = self.file.rows("checksums")
        for name, starts in (("input_ids", self.token_start), ("states", self.state_start)):
            whole = len(starts) == len(self._checksums) + 1 and starts[0] == 0
            if not whole or starts[-1] != self.file.shape(name)[0] or (np.diff(starts) < 0).any():
                raise self.file.damaged(f"where its samples begin in {name!r} cannot be told")

    def __len__(self) -> int:
        return len(self._checksums)

    def require(self, format: StateFormat, hidden_size: int) -> None:  # noqa: A002
        """Refuse a shard of states of another kind than the store's.

        Args:
            format: how the store's states are stored.
            hidden_size: their width.

        Raises:
            StoreError: the shard has others.
        """
        shapes = {"states": (int(self.state_start[-1]), hidden_size)}
        if format == "int8":
            shapes["scales"] = (int(self.state_start[-1]), groups_of(hidden_size))
        found = {name: self.file.shape(name) for name in shapes}
        if found != shapes or self._states(0, 0).values.dtype != DTYPES[format]:
            raise self.file.damaged(f"its states are not the store's, which are of {format} and width {hidden_size}")

    def tokens(self, number: int) -> npt.NDArray[np.int32]:
        """Return ``[T]``: the tokens of a sample.

        Args:
            number: of the sample.
        """
        return self.file.rows("input_ids", *self._tokens_of(number))

    def stored(self, number: int) -> BoolArray:
        """Return ``[T]``, bool: the positions of a sample whose states are stored.

        Args:
            number: of the sample.
        """
        return self.file.rows("stored", *self._tokens_of(number))

    def all_tokens(self) -> npt.NDArray[np.int32]:
        """Return the tokens of all samples, one after the other."""
        return self.file.rows("input_ids")

    def beginning_with(self, tokens: npt.NDArray[np.int32], numbers: IntArray) -> list[int]:
        """Return those of some samples that begin with tokens.

        Where there are many, as of chats with one system prompt, all are compared at once, from the last token on, in
        which they differ.

        Args:
            tokens: ``[T]``.
            numbers: of the samples ``[N]``.
        """
        numbers = numbers[np.diff(self.token_start)[numbers] >= len(tokens)]
        for place in reversed(range(len(tokens))):
            if len(numbers) <= FEW:
                break
            numbers = numbers[self._kept_tokens[self.token_start[numbers] + place] == tokens[place]]
        return [number for number in numbers.tolist() if np.array_equal(self.tokens(number)[: len(tokens)], tokens)]

    @cached_property
    def _kept_tokens(self) -> npt.NDArray[np.int32]:
        """The tokens of all samples, while the shard is open."""
        return self.all_tokens()

    def sample(self, number: int, *, check: bool = True) -> StoredSample:
        """Return all that is stored of a sample.

        Args:
            number: of the sample.
            check: whether to compare its checksum.

        Raises:
            StoreError: the checksum is another one, or the file ends too early.
        """
        start, stop = int(self.state_start[number]), int(self.state_start[number + 1])
        sample = StoredSample(self.tokens(number), self.stored(number), self._states(start, stop))
        if int(sample.stored.sum()) != stop - start:
            positions = int(sample.stored.sum())
            raise self.file.damaged(f"sample {number} has {stop - start} states for {positions} positions")
        if check and sample.checksum != self._checksums[number]:
            raise self.file.damaged(f"the checksum of sample {number} is not the one that was written")
        return sample

    def problems(self) -> list[str]:
        """Return what is wrong with the file, after reading all of it."""
        expected = self.file.path.stem.removeprefix("states-")
        found = digest_of_file(self.file.path)
        if found == expected:
            return []
        broken = []
        for number in range(len(self)):
            try:
                self.sample(number)
            except Exception as error:  # whatever damaged numbers lead to
                broken.append(f"sample {number} ({error})")
        which = f": {broken[0]}" if broken else ", outside of its samples"
        return [f"{self.file.path.name}: its content has changed since it was written{which}"]

    def _tokens_of(self, number: int) -> tuple[int, int]:
        return int(self.token_start[number]), int(self.token_start[number + 1])

    def _states(self, start: int, stop: int) -> StoredStates:
        values = _tensor(self.file.rows("states", start, stop))
        if values.dtype != torch.int8:
            return StoredStates(values)
        return StoredStates(values, _tensor(self.file.rows("scales", start, stop)))


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """Return an array as a tensor; the bits of bfloat16 as such."""
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
