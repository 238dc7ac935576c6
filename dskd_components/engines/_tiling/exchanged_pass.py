"""`ExchangedPass`: one way through a side whose head is cut over ranks that have rows of their own.

All ranks go through the rows of all, each through its own columns of the logits: states travel to where the weights
are, and their gradients back. What is not of the size of a vocabulary, each rank does for its own rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from dskd_components.engines._tiling.head_stack import HeadStack
from dskd_components.engines._tiling.side_pass import SidePass, logit_block

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from dskd_components.distributed.vocabulary_shards import VocabularyShards
    from dskd_components.engines._tiling.plan import Plan
    from dskd_components.engines._tiling.side_pass import Blocks
    from dskd_components.engines._tiling.side_rows import SideRows
    from dskd_components.engines._tiling.tiled_states import TiledStates
    from dskd_components.engines.reduction import Reduction
    from dskd_components.engines.workspace import Scratch


class ExchangedStack(HeadStack):
    """A part of one head, its streams, and a buffer for a tile of logits of each, of the rows of all ranks.

    Args:
        streams: streams that read alike.
        plan: how each rank's rows are cut.
        dtype: what is computed in.
        scratch: memory for the buffer.
        shards: how the head is cut.
    """

    def __init__(
        self, streams: list[TiledStates], plan: Plan, dtype: torch.dtype, scratch: Scratch, shards: VocabularyShards
    ) -> None:
        super().__init__(streams, replace(plan, tile_rows=plan.tile_rows * shards.ranks), dtype, scratch)
        self._plan = plan
        self._shards = shards
        self._exchanged: dict[TiledStates, Tensor] = {}

    def exchanged(self, rows: Mapping[TiledStates, slice], most: int) -> dict[TiledStates, Tensor]:
        """Return ``[ranks * most, W]`` for each stream: all ranks' rows, in the buffer until the next tile.

        The rows of each block lie together, those of one rank after those of the other.

        Args:
            rows: of each stream that has rows in a tile on some rank, among this rank's own.
            most: rows of the tile on each rank, those included that a rank does not have.
        """
        order = self._order(most)
        self._exchanged = {
            stream: self._shards.rows_of_all(stream.states(some).to(self._dtype), most)[order]
            for stream, some in self._own(rows).items()
        }
        tile = self._buffer[: len(self._exchanged) * len(order)]
        if len(tile):
            self._read(self._exchanged, tile)
        return self._by_stream(tile, len(order))

    def bring_back(self, rows: Mapping[TiledStates, slice], most: int) -> None:
        """Take the gradients that now stand where the logits stood to this rank's states, and to its part of the head.

        Args:
            rows: as in `exchanged`.
            most: as there.
        """
        back = torch.argsort(self._order(most))
        for stream, gradient in self._by_stream(self._buffer, len(back)).items():
            some = rows[stream]
            of_all = self._take_back(stream, gradient, self._exchanged[stream])
            if of_all is not None:
                stream.set_gradient(some, self._shards.sum_of_own_rows(of_all[back], some.stop - some.start))

    def _by_stream(self, tile: Tensor, rows: int) -> dict[TiledStates, Tensor]:
        return {stream: tile[place * rows : (place + 1) * rows] for place, stream in enumerate(self._exchanged)}

    def _order(self, most: int) -> Tensor:
        """Return ``[ranks * most]``: the rows, rank by rank, in the order of blocks."""
        ranks, device = self._shards.ranks, self._shards.device
        places = torch.arange(ranks * most, device=device).view(ranks, most)
        return torch.cat([places[:, block].flatten() for block in self._plan.blocks(slice(0, most))])


class ExchangedPass(SidePass):
    """The terms whose rows are the positions of one side, on ranks that have cut its head and have their own batches.

    Rows are numbered alike on all ranks: first as many covered ones as any rank has, then as many others.

    Args:
        rows: the positions and the streams of states that meet there; there is one teacher.
        plan: how each rank's rows are cut.
        reduction: how token values become terms.
        scratch: memory for tiles.
        predicts: whether the side's own most likely tokens are wanted.
    """

    def __init__(
        self, rows: SideRows, plan: Plan, reduction: Reduction, scratch: Scratch, *, predicts: bool = False
    ) -> None:
        assert rows.own.shards is not None, "a head that is cut"
        self._shards = rows.own.shards
        self._covered, self._others = most_rows(rows, self._shards)
        super().__init__(rows, plan, reduction, scratch, predicts=predicts)

    def _stack(self, streams: list[TiledStates], scratch: Scratch) -> ExchangedStack:
        return ExchangedStack(streams, self._plan, self._rows.dtype, scratch, self._shards)

    @property
    def _some_have_none(self) -> bool:
        return self._covered == 0

    def _own(self, rows: slice) -> slice:
        covered, everything = self._rows.coverage.covered, len(self._rows.own)
        if rows.start < self._covered or rows.start == rows.stop:
            return slice(min(rows.start, covered), min(rows.stop, covered))
        shift = covered - self._covered
        return slice(min(rows.start + shift, everything), min(rows.stop + shift, everything))

    def _of_streams(self, rows: slice) -> dict[TiledStates, slice]:
        """Return which rows of each stream some rows are; there are streams of which this rank has none."""
        own = self._own(rows)
        if rows.start >= self._covered and rows.start < rows.stop:
            return {self._rows.own: own}
        return dict.fromkeys(self._rows.streams, own)

    def _covered_tiles(self) -> Iterator[slice]:
        yield from self._plan.tiles(0, self._covered)

    def _tiles(self) -> Iterator[slice]:
        yield from self._covered_tiles()
        yield from self._plan.tiles(self._covered, self._covered + self._others)

    def _blocks_of(self, tile: slice) -> Iterator[slice]:
        for block in self._plan.blocks(tile):
            yield slice(tile.start + block.start, tile.start + block.stop)

    def _logits(self, tile: slice) -> dict[TiledStates, Tensor]:
        logits: dict[TiledStates, Tensor] = {}
        for stack in self._stacks:
            assert isinstance(stack, ExchangedStack), "its own stacks"
            logits |= stack.exchanged(self._of_streams(tile), tile.stop - tile.start)
        return logits

    def _backward(self, tile: slice) -> None:
        for stack in self._stacks:
            assert isinstance(stack, ExchangedStack), "its own stacks"
            stack.bring_back(self._of_streams(tile), tile.stop - tile.start)

    def _blocks(self, tile: slice, rows: slice, logits: Mapping[TiledStates, Tensor], *, requires_grad: bool) -> Blocks:
        first, last = (self._shards.ranks * (row - tile.start) for row in (rows.start, rows.stop))
        return {
            stream: logit_block(
                logits[stream][first:last],
                stream,
                length=some.stop - some.start,
                requires_grad=requires_grad and stream.requires_grad,
            )
            for stream, some in self._of_streams(rows).items()
        }


def most_rows(rows: SideRows, shards: VocabularyShards) -> tuple[int, int]:
    """Return how many covered rows and how many others the ranks have that have most of them.

    Args:
        rows: this rank's.
        shards: the ranks; all of them call this.
    """
    covered = rows.coverage.covered
    found = shards.largest(torch.tensor([covered, len(rows.own) - covered], device=shards.device))
    most_covered, most_others = found.tolist()
    return most_covered, most_others
