"""Reading states for the samples of a batch: from any order, in any process, without a model."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from dskd_components.errors import StoreError
from dskd_components.store.formats import DTYPES, StoredStates, groups_of
from dskd_components.store.index import FILE as INDEX_FILE
from dskd_components.store.index import Index, beginning_hashes
from dskd_components.store.manifest import Manifest
from dskd_components.store.shards import PATTERN, Shard

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from dskd_components.store.batch_samples import BatchSample
    from dskd_components.store.shards import StoredSample

OPEN_SHARDS: Final = 64
"""How many shards stay open."""


@dataclass(frozen=True, eq=False)
class BatchStates:
    """The states of a batch as a store has them: those of scored positions alone, packed to the left of each row.

    Args:
        states: ``[B, N, d]``.
        positions: ``[B, N]``, int64: where in its row each of them belongs, -1 for none.
    """

    states: StoredStates
    positions: Tensor

    def placed(self, length: int, device: torch.device) -> Tensor:
        """Return ``[B, T, d]``: each state at its position, zeros elsewhere.

        Args:
            length: T.
            device: where they are wanted. They travel as they are stored.
        """
        values = self.states.values.to(device, non_blocking=True)
        scales = None if self.states.scales is None else self.states.scales.to(device, non_blocking=True)
        decoded = StoredStates(values, scales).decode()
        positions = self.positions.to(device, non_blocking=True)
        # States without a position go to one that is cut off again.
        placed = decoded.new_zeros(len(decoded), length + 1, decoded.shape[-1])
        index = positions.where(positions >= 0, length)[..., None].expand_as(decoded)
        return placed.scatter(1, index, decoded)[:, :length]

    def present(self, length: int) -> Tensor:
        """Return ``[B, T]``, bool: the positions that have a state.

        Args:
            length: T.
        """
        has = torch.zeros(len(self.positions), length + 1, dtype=torch.bool, device=self.positions.device)
        return has.scatter(1, self.positions.where(self.positions >= 0, length), True)[:, :length]


class Reader:
    """Finds and reads what a store has of the samples of a batch. Copies in other processes open it for themselves.

    Args:
        folder: of the store.
        check: whether checksums are compared on reading.

    Attributes:
        fills: whether samples that the store does not have will be added, so that they are no error.

    Raises:
        StoreError: there is no store, or it is damaged as far as can be told from its lists.
    """

    def __init__(self, folder: Path, *, check: bool = True) -> None:
        self.folder = folder
        self.check = check
        self.fills = False
        self.manifest = Manifest.read(folder)
        self._open()

    def _open(self) -> None:
        self._shards: OrderedDict[str, Shard] = OrderedDict()
        index = Index.read(self.folder)
        names = self._names()
        if index is None or not set(index.names) <= names:
            # A shard of the index is gone, or there never was an index.
            index = Index.of_shards((name, self.shard(name)) for name in sorted(names))
        self.index = index
        self.refresh()

    def _names(self) -> set[str]:
        return {path.name for path in self.folder.glob(PATTERN)}

    def refresh(self) -> bool:
        """Take in shards that were written since the store was opened; return whether there are any."""
        new = sorted(self._names() - set(self.index.names))
        if new:
            self.index = self.index.joined(Index.of_shards((name, self.shard(name)) for name in new))
        return bool(new)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("folder", "check", "fills", "manifest")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self.index)

    def copies(self) -> int:
        """Return how many samples are copies of others, of whatever positions; all tokens are read for it.

        Raises:
            StoreError: a shard is gone or damaged.
        """
        known: set[bytes] = set()
        for name in self.index.names:
            shard = self.shard(name)
            known.update(
                hashlib.blake2b(shard.tokens(place).tobytes(), digest_size=16).digest() for place in range(len(shard))
            )
        return len(self) - len(known)

    def shard(self, name: str) -> Shard:
        """Return a shard, open.

        Args:
            name: of its file.

        Raises:
            StoreError: it is gone or damaged.
        """
        shard = self._shards.get(name)
        if shard is None:
            shard = Shard(self.folder / name)
            shard.require(self.manifest.states, self.manifest.hidden_size)
            listed = getattr(self, "index", None)
            if listed is not None and listed.counts.get(name, len(shard)) != len(shard):
                raise StoreError(
                    f"{self.folder / INDEX_FILE}: the index is damaged: it tells of {listed.counts[name]} samples in "
                    f"{name}, and there are {len(shard)}. Delete the index: it is made again from the shards."
                )
            self._shards[name] = shard
            if len(self._shards) > OPEN_SHARDS:
                self._shards.popitem(last=False)
        self._shards.move_to_end(name)
        return shard

    def sample(self, number: int) -> StoredSample:
        """Return a sample by its number.

        Args:
            number: from 0 on, in the order of the shards' names and then as they were written.
        """
        name, place = self.index.place(number)
        return self.shard(name).sample(place, check=self.check)

    def find(self, sample: BatchSample, *, whole: bool = False) -> int | None:
        """Return the number of a stored sample that begins with a sample's tokens and has its states; None for none.

        Args:
            sample: of a batch.
            whole: whether the stored sample must have no more tokens.
        """
        return self._candidates(sample, whole=whole)[0]

    def _candidates(self, sample: BatchSample, *, whole: bool = False) -> tuple[int | None, int | None]:
        """Return a stored sample that has the states of another, and one that has its tokens, but not all of these."""
        without_states = None
        length = len(sample.input_ids)
        longer = self.manifest.beginnings and not whole
        proposed = self.index.proposed(beginning_hashes(sample.input_ids), longer=longer)
        for name, places in chain.from_iterable(map(self.index.places, proposed)):
            shard = self.shard(name)
            for place in shard.beginning_with(sample.input_ids, places):
                if not longer and len(shard.tokens(place)) > length:
                    continue
                number = self.index.number(name, place)
                if not (sample.wanted & ~shard.stored(place)[:length]).any():
                    return number, None
                without_states = number
        return None, without_states

    def read(
        self, samples: Sequence[BatchSample], rows: int, *, required: bool = True
    ) -> tuple[BatchStates, list[BatchSample]]:
        """Return the states of all scored positions of a batch.

        Args:
            samples: of the batch.
            rows: how many rows it has.
            required: whether samples that the store does not have are an error.

        Returns:
            The states, and the samples that the store does not have.

        Raises:
            StoreError: a sample is missing, or a shard is damaged.
        """
        numbers = {index: self.find(sample) for index, sample in enumerate(samples)}
        if self.fills and None in numbers.values() and self.refresh():
            numbers = {index: self.find(sample) for index, sample in enumerate(samples)}
        missing = [samples[index] for index, number in numbers.items() if number is None]
        if missing and required:
            raise self.missing(missing[0])
        found = [(samples[index], self.sample(number)) for index, number in numbers.items() if number is not None]
        return self.put_together(found, rows), missing

    def put_together(self, found: Sequence[tuple[BatchSample, StoredSample]], rows: int) -> BatchStates:
        """Return the states of a batch.

        Args:
            found: the samples of the batch, each with what is stored of it.
            rows: how many rows the batch has.
        """
        return self._batch([(sample, *self._wanted(sample, stored)) for sample, stored in found], rows)

    def _wanted(self, sample: BatchSample, stored: StoredSample) -> tuple[np.ndarray[Any, Any], StoredStates]:
        """Return the places in the row and the states of a sample's scored positions."""
        numbers = np.cumsum(stored.stored)[: len(sample.wanted)][sample.wanted] - 1
        return sample.places[sample.wanted], stored.states[torch.from_numpy(numbers)]

    def _batch(self, parts: Sequence[tuple[BatchSample, np.ndarray[Any, Any], StoredStates]], rows: int) -> BatchStates:
        filled = [0] * rows
        for sample, places, _ in parts:
            filled[sample.row] += len(places)
        most, width, dtype = max(filled, default=0), self.manifest.hidden_size, DTYPES[self.manifest.states]
        on_cpu = torch.device("cpu")
        values = torch.zeros(rows, most, width, dtype=dtype, device=on_cpu)
        scales = None
        if self.manifest.states == "int8":
            scales = torch.zeros(rows, most, groups_of(width), dtype=torch.bfloat16, device=on_cpu)
        positions = torch.full((rows, most), -1, dtype=torch.int64, device=on_cpu)
        start = [0] * rows
        for sample, places, states in parts:
            at = slice(start[sample.row], start[sample.row] + len(places))
            values[sample.row, at] = states.values
            if scales is not None and states.scales is not None:
                scales[sample.row, at] = states.scales
            positions[sample.row, at] = torch.from_numpy(places)
            start[sample.row] = at.stop
        return BatchStates(StoredStates(values, scales), positions)

    def missing(self, sample: BatchSample) -> StoreError:
        """Return the error of a sample that the store does not have.

        Args:
            sample: of a batch.
        """
        _, without_states = self._candidates(sample)
        if without_states is not None:
            name, place = self.index.place(without_states)
            lacking = sample.wanted & ~self.shard(name).stored(place)[: len(sample.wanted)]
            return StoreError(
                f"{self.folder}: the store has the sample at {sample}, but not the states of its positions "
                f"{_ranges(np.flatnonzero(lacking))}, which are scored here. Was train_on_prompt=True left out of the "
                'build? Build again with the options of the collator, or with positions="all".'
            )
        common = self.index.common_length(beginning_hashes(sample.input_ids))
        known = (
            f"Some stored sample begins with its first {common} tokens, but goes on otherwise or ends earlier"
            if common
            else "No stored sample begins as it does"
        )
        notes = [known]
        if not self.manifest.beginnings:
            notes.append(
                "Beginnings of longer samples are not used, as this teacher's states depend on a text's length"
            )
        if not (self.folder / INDEX_FILE).is_file():
            notes.append("The build of this store was not finished")
        return StoreError(
            f"{self.folder}: the store, of {len(self)} samples, does not have the sample at {sample}. "
            f"{'. '.join(notes)}. Causes are samples that the build did not see or that were cut shorter there "
            "(teacher_max_length), and another tokenizer, chat template or EOS; the build's options were "
            f"{self.manifest.options or 'not noted'}. "
            "Run TeacherStore.build once more with these samples: it adds what is missing."
        )


def _ranges(positions: np.ndarray[Any, Any]) -> str:
    """Return ascending positions as text, a few ranges of them."""
    parts = np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1)
    shown = [str(part[0]) if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in parts[:4]]
    return ", ".join(shown) + (", ..." if len(parts) > 4 else "")
