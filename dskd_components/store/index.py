"""Which sample of a store begins with given tokens: an index by content, so that order and batches do not matter.

Of each sample the index has a hash of its tokens, and hashes of its beginnings of some lengths. So a sample that was
cut after the store was built is found as the beginning of a longer one: a causal model has read the same up to there.
Hashes only propose; tokens are compared before a sample counts as found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from dskd_components.store.files import TensorFile, as_bytes, write_tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from dskd_components.store.shards import Shard
    from dskd_components.tokenization.arrays import IntArray

FILE: Final = "index.safetensors"

SHORT: Final = (2, 4, 8, 16)
STEP: Final = 32
"""Beginnings of 2, 4, 8 and 16 tokens, and of each multiple of 32 have an entry: half a byte a token."""

BASE: Final = 0x9E3779B97F4A7C15
MIX: Final = 0xBF58476D1CE4E5B9


def beginning_hashes(tokens: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Return ``[T]``: the hash of the first 1, 2, ..., T tokens.

    Args:
        tokens: ``[T]``.

    Examples:
        >>> long, short = beginning_hashes(np.array([5, 6, 7])), beginning_hashes(np.array([5, 6]))
        >>> bool(long[1] == short[1])
        True
    """
    sums: npt.NDArray[np.uint64] = np.cumsum(_weighted(tokens, np.arange(len(tokens))))
    return _mixed(sums)


def hashed_length(length: int) -> int:
    """Return the longest beginning with an entry that a sample of so many tokens has if it is cut; 0 for none.

    Args:
        length: the number of tokens.

    Examples:
        >>> [hashed_length(length) for length in (1, 3, 31, 32, 100)]
        [0, 2, 16, 32, 96]
    """
    return length // STEP * STEP or max((short for short in SHORT if short <= length), default=0)


def _weighted(tokens: npt.NDArray[Any], places: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    # Arithmetic of uint64 wraps around, which is what is wanted.
    powers = _powers(int(places.max(initial=-1)) + 1)
    weighted: npt.NDArray[np.uint64] = (tokens.astype(np.uint64) + np.uint64(1)) * powers[places]
    return weighted


def _powers(count: int) -> npt.NDArray[np.uint64]:
    powers = np.full(count, BASE, dtype=np.uint64)
    return np.multiply.accumulate(powers) if count else powers


def _mixed(sums: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    mixed: npt.NDArray[np.uint64] = (sums ^ (sums >> np.uint64(31))) * np.uint64(MIX)
    mixed ^= mixed >> np.uint64(29)
    return mixed


def entries_of(tokens: npt.NDArray[Any], starts: IntArray) -> tuple[npt.NDArray[np.uint64], IntArray]:
    """Return the entries of some samples: hashes, and the number of the sample of each.

    Args:
        tokens: of all samples, one after the other.
        starts: ``[S + 1]``: where each begins and the last one ends.
    """
    lengths = np.diff(starts)
    sample_of = np.repeat(np.arange(len(lengths)), lengths)
    places = np.arange(len(tokens)) - starts[:-1][sample_of]
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(_weighted(tokens, places))])
    wanted = places + 1
    has_entry = (wanted % STEP == 0) | np.isin(wanted, SHORT) | (wanted == lengths[sample_of])
    at = np.flatnonzero(has_entry)
    # What comes before a sample in the running sum is taken off again.
    return _mixed(sums[at + 1] - sums[starts[:-1][sample_of[at]]]), sample_of[at]


class Index:
    """Finds samples by their first tokens.

    Args:
        hashes: ``[E]``, uint64, ascending.
        samples: ``[E]``: the sample of each.
        counts: by the name of a shard, how many samples it has; samples are numbered in this order.
    """

    def __init__(self, hashes: npt.NDArray[np.uint64], samples: IntArray, counts: Mapping[str, int]) -> None:
        self._hashes = hashes
        self._samples = samples
        self.counts = dict(counts)
        self.names = list(counts)
        self._ends = np.cumsum([0, *counts.values()], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def place(self, sample: int) -> tuple[str, int]:
        """Return the shard that has a sample, and its number there.

        Args:
            sample: its number in the store.
        """
        shard = int(np.searchsorted(self._ends, sample, side="right")) - 1
        return self.names[shard], sample - int(self._ends[shard])

    def number(self, name: str, place: int) -> int:
        """Return the number in the store of a sample of a shard.

        Args:
            name: of the shard.
            place: the sample's number there.
        """
        return int(self._ends[self.names.index(name)]) + place

    def places(self, samples: IntArray) -> Iterator[tuple[str, IntArray]]:
        """Yield the shards that have some samples, in the order of these, and their numbers there.

        Args:
            samples: their numbers in the store ``[N]``.
        """
        shards = np.searchsorted(self._ends, samples, side="right") - 1
        for part in np.split(np.arange(len(samples)), np.flatnonzero(np.diff(shards)) + 1):
            if len(part):
                shard = int(shards[part[0]])
                yield self.names[shard], samples[part] - self._ends[shard]

    def proposed(self, hashes: npt.NDArray[np.uint64], *, longer: bool = True) -> Iterator[IntArray]:
        """Yield samples that may begin with some tokens ``[N]``: those that are nothing more, then longer ones.

        Args:
            hashes: of the tokens, as `beginning_hashes` gives them.
            longer: whether samples that go on are wanted, too.
        """
        length = len(hashes)
        found = self._with(hashes[length - 1])
        yield found
        part = hashed_length(length)
        if longer and 0 < part < length:
            others = self._with(hashes[part - 1])
            yield others[~np.isin(others, found)]

    def common_length(self, hashes: npt.NDArray[np.uint64]) -> int:
        """Return how many tokens some sample has in common with others at least, for messages.

        Args:
            hashes: of the tokens, as `beginning_hashes` gives them.
        """
        lengths = [short for short in SHORT if short <= len(hashes)] + list(range(STEP, len(hashes) + 1, STEP))
        return max((length for length in lengths if len(self._with(hashes[length - 1]))), default=0)

    def _with(self, value: np.uint64) -> IntArray:
        first = int(np.searchsorted(self._hashes, value, side="left"))
        last = int(np.searchsorted(self._hashes, value, side="right"))
        found = np.asarray(self._samples[first:last], dtype=np.int64)
        return found[found < len(self)]

    @classmethod
    def of_shards(cls, shards: Iterable[tuple[str, Shard]]) -> Index:
        """Return the index of some shards, made from their tokens.

        Args:
            shards: by name, in the order in which their samples are numbered.
        """
        counts: dict[str, int] = {}
        hashes, samples = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int64)]
        for name, shard in shards:
            found, numbers = entries_of(shard.all_tokens(), shard.token_start)
            hashes.append(found)
            samples.append(numbers + sum(counts.values()))
            counts[name] = len(shard)
        return cls(*_sorted(np.concatenate(hashes), np.concatenate(samples)), counts)

    def joined(self, other: Index) -> Index:
        """Return one index for the samples of both, whose shards differ.

        Args:
            other: of other shards; its samples come after this one's.
        """
        hashes = np.concatenate([self._hashes, other._hashes])
        samples = np.concatenate([self._samples, other._samples + len(self)])
        return Index(*_sorted(hashes, samples), self.counts | other.counts)

    def write(self, folder: Path) -> None:
        """Put the index in place; it can be made again from the shards at any time.

        Args:
            folder: of the store.

        Raises:
            StoreError: it cannot be written.
        """
        write_tensors(folder, FILE, *self._content())

    def is_written(self, folder: Path) -> bool:
        """Return whether this very index is in place, byte for byte.

        Args:
            folder: of the store.
        """
        return (folder / FILE).read_bytes() == as_bytes(*self._content())

    def _content(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors = {
            "hashes": torch.from_numpy(self._hashes.view(np.int64).copy()),
            "samples": torch.from_numpy(self._samples.copy()),
        }
        return tensors, {"kind": "index", "shards": self.counts}

    @classmethod
    def read(cls, folder: Path) -> Index | None:
        """Return the index that is in a folder; None if there is none, or it is damaged.

        Args:
            folder: of the store.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            file = TensorFile(path)
            (count,) = file.shape("hashes")
            counts = file.about["shards"]
            # Entries are looked up here and there, so the file is mapped; it is replaced, and never cut short.
            arrays = [
                np.memmap(path, dtype="<i8", mode="r", offset=file.offset(name), shape=(count,))
                if count
                else np.zeros(0, dtype=np.int64)
                for name in ("hashes", "samples")
            ]
        except (ValueError, KeyError):
            return None
        return cls(arrays[0].view(np.uint64), arrays[1], counts)


def _sorted(hashes: npt.NDArray[np.uint64], samples: IntArray) -> tuple[npt.NDArray[np.uint64], IntArray]:
    order = np.lexsort((samples, hashes))
    return hashes[order], samples[order]
