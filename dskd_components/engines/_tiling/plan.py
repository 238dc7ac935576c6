"""How positions are cut into tiles and blocks so that logits keep to a budget, and what alignment takes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import torch

from dskd_components.engines.engine import BLOCK_TENSORS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dskd_components.components.space import Space
    from dskd_components.distributed.vocabulary_shards import VocabularyShards
    from dskd_components.engines._tiling.products import Products
    from dskd_components.engines.aligned_batch import AlignedBatch


CACHED_BLOCK: Final = 4 * 2**20
"""Bytes of one such tensor on a CPU, where the operations on single entries are as fast as the cache that it stays in.
From 1 to 8 MiB it makes little difference; above, each block's memory comes anew from the system."""

COMPILED_TENSORS: Final = 2
"""How many tensors of a block's size a comparison holds at once whose operations are compiled."""

SHARE: Final = 4
"""One part in so many of the budget is the most that blocks get, and what a widened part of a weight gets."""


@dataclass(frozen=True)
class Plan:
    """How the rows of a side are cut.

    A tile is what one matrix product makes, and should be large; a block is what the operations on single entries run
    over, and should fit into a cache.

    Args:
        tile_rows: rows of a tile.
        block_rows: rows of a block.
        block_bytes: memory of the tensors that operations on a block make.
        part_bytes: memory for a part of a half-precision weight, widened.
        products: how kernels of products are chosen.
        compiled: whether operations on single logits are compiled.
        alignment: numbers that each row of a tile begins at a multiple of.
    """

    tile_rows: int
    block_rows: int
    block_bytes: int
    part_bytes: int
    products: Products = "torch"
    compiled: bool = False
    alignment: int = 1

    @classmethod
    def of(
        cls,
        *,
        budget: int,
        rows: int,
        vocabularies: list[int],
        itemsize: int,
        widened: int,
        has_cache: bool,
        teachers: int = 1,
        products: Products = "torch",
        beside: int = 0,
        beside_all: int = 0,
        compiled: bool = False,
        reads_logits: bool = True,
        even: int = 1,
    ) -> Plan:
        """Return the plan that keeps to a budget; never less than a row at a time.

        Args:
            budget: bytes.
            rows: rows of the longest part that is cut.
            vocabularies: for each stream, the number of its logits.
            itemsize: bytes of a logit.
            widened: bytes of the largest part of a weight that is widened at once; 0 where none is.
            has_cache: whether small blocks are faster, as on a CPU, rather than large ones.
            teachers: how many teachers are compared with in each block, at most.
            products: how kernels of products are chosen.
            beside: numbers that products take beside the tile, for each row of each stream.
            beside_all: numbers that they take for each row once, whatever the streams: of one after the other.
            compiled: whether operations on single logits are compiled.
            reads_logits: whether a space reads logits themselves: there is more than is compiled, and their rows may
                have to lie together.
            even: a multiple of how many tokens products are best made of.
        """
        share = budget // SHARE
        for_blocks = min(share, CACHED_BLOCK * BLOCK_TENSORS) if has_cache else share
        part_bytes = min(share, widened)
        for_tile = budget - for_blocks - part_bytes
        # As large as fits, whatever the batch: what one batch takes, the others take.
        tile_row_bytes = (sum(vocabularies) + len(vocabularies) * beside + beside_all) * itemsize
        tile_rows = max(1, min(rows, for_tile // tile_row_bytes))
        tensors = COMPILED_TENSORS if compiled and not reads_logits else BLOCK_TENSORS
        row_bytes = max(vocabularies) * itemsize * tensors * teachers
        if not has_cache:
            # What a small batch's tile leaves: a few large blocks take fewer operations than many.
            for_blocks = max(for_blocks, budget - part_bytes - tile_rows * tile_row_bytes)
        block_rows = min(max(1, for_blocks // row_bytes), tile_rows)
        if not has_cache:
            block_rows = math.ceil(tile_rows / math.ceil(tile_rows / block_rows))
        return cls(
            tile_rows=tile_rows,
            block_rows=block_rows,
            block_bytes=block_rows * row_bytes,
            part_bytes=part_bytes,
            products=products,
            compiled=compiled,
            alignment=1 if reads_logits else even,
        )

    def agreed(self, shards: VocabularyShards) -> Plan:
        """Return the plan of ranks that have cut a head, and so must cut their rows alike: the smallest of theirs.

        Args:
            shards: the ranks; all of them call this.

        Returns:
            How each rank's rows are cut: where ranks have rows of their own, a tile has some of each.
        """
        found = shards.smallest(torch.tensor([self.tile_rows, self.block_rows], device=shards.device))
        tile_rows, block_rows = found.tolist()
        apart = 1 if shards.same_rows else shards.ranks
        return replace(self, tile_rows=max(1, tile_rows // apart), block_rows=max(1, block_rows // apart))

    def tiles(self, start: int, stop: int) -> Iterator[slice]:
        """Yield the tiles of the rows from start to stop; the last two share what is left."""
        while start < stop:
            left = stop - start
            # A small tile at the end would cost nearly as much as a full one.
            size = math.ceil(left / 2) if self.tile_rows < left < 2 * self.tile_rows else min(left, self.tile_rows)
            yield slice(start, start + size)
            start += size

    def blocks(self, tile: slice) -> Iterator[slice]:
        """Yield the blocks of a tile, counted from its first row; an empty tile has one empty block."""
        length = tile.stop - tile.start
        for first in range(0, max(length, 1), self.block_rows):
            yield slice(first, min(first + self.block_rows, length))


def alignment_bytes(batch: AlignedBatch) -> int:
    """Return how many bytes an alignment holds until the backward pass; an estimate for those that learn.

    Args:
        batch: the states of both models, aligned.
    """
    alignment = batch.alignment
    values = {alignment.student_values.data_ptr(), alignment.teacher_values.data_ptr()}
    given = {batch.student.hidden_states.data_ptr(), batch.teacher.hidden_states.data_ptr()}
    made = [part for part in alignment.tensors if part.data_ptr() not in given]
    # Beside its outcome an attention keeps what it was computed from, which is as large.
    return sum(part.nbytes * (1 if part.data_ptr() in values else 2) for part in made)


def projected_bytes(batch: AlignedBatch, *, recompute: bool = False) -> int:
    """Return an estimate of the bytes between hidden states and projected states, where they are kept.

    Args:
        batch: the states of both models, aligned.
        recompute: whether those that may be computed twice are not kept.
    """
    kept = [space for space in batch.spaces if space.projector and not (recompute and batch.repeats(space))]
    return sum(_projected_bytes(batch, space) for space in kept)


def _projected_bytes(batch: AlignedBatch, space: Space) -> int:
    source = batch.source(space)
    return source.targets.numel() * batch.side(space.side).head.hidden_size * source.hidden_states.itemsize
