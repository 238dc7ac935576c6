"""`Plan`: from a memory budget to the sizes of tiles and blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_SHARE: Final = 4
"""One part in so many of the budget is for the temporaries of a block, and one for a widened part of a weight."""

BLOCK_TENSORS: Final = 12
"""How many tensors of a block's size a comparison holds at once: log-probabilities, probabilities, gradients. Distances
that go through autograd may hold some more."""


@dataclass(frozen=True)
class Plan:
    """How the rows of a side are cut.

    A tile is what one matrix product makes, and should be large; a block is what the operations on single entries run
    over, and should fit into a cache.

    Args:
        tile_rows: rows of a tile.
        block_rows: rows of a block.
        part_bytes: memory for a part of a half-precision weight, widened.
    """

    tile_rows: int
    block_rows: int
    part_bytes: int

    @classmethod
    def of(cls, *, budget: int, rows: int, vocabularies: list[int], itemsize: int, widens: bool) -> Plan:
        """Return the plan that keeps to a budget; never less than a row at a time.

        Args:
            budget: bytes.
            rows: rows of the longest part that is cut.
            vocabularies: for each stream, the number of its logits.
            itemsize: bytes of a logit.
            widens: whether a weight is stored in half precision.
        """
        share = budget // BLOCK_SHARE
        for_tile = budget - share * (2 if widens else 1)
        most = max(1, for_tile // (sum(vocabularies) * itemsize))
        # Tiles of one size: a small one at the end would cost nearly as much as a full one.
        tile_rows = math.ceil(rows / math.ceil(rows / most)) if rows else 1
        block_rows = max(1, share // (max(vocabularies) * itemsize * BLOCK_TENSORS))
        return cls(tile_rows=tile_rows, block_rows=min(block_rows, tile_rows), part_bytes=share)

    def tiles(self, start: int, stop: int) -> Iterator[slice]:
        """Yield the tiles of the rows from start to stop."""
        yield from _cut(start, stop, self.tile_rows)

    def blocks(self, tile: slice) -> Iterator[slice]:
        """Yield the blocks of a tile, counted from its first row; an empty tile has one empty block."""
        length = tile.stop - tile.start
        yield from _cut(0, length, self.block_rows) if length else [slice(0, 0)]


def _cut(start: int, stop: int, size: int) -> Iterator[slice]:
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))
