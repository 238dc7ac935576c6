"""`GroupPasses`: the rows of a side whose numbers are summed over groups, first for their sums, then for gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dskd_components.components.group_space import GroupSpace
from dskd_components.engines._tiling.head_products import numbers_beside, widened_bytes
from dskd_components.engines._tiling.head_stack import HeadStack
from dskd_components.engines._tiling.logit_block import LogitBlock, TiledGroupRows
from dskd_components.engines._tiling.plan import Plan
from dskd_components.engines._tiling.tiled_states import TiledStates
from dskd_components.engines.group_sums import GroupSums, checked_values, compared_groups, temperature_of
from dskd_components.models.batch import naming_teacher

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from dskd_components.components.space import SpaceResult
    from dskd_components.engines._tiling.products import Products
    from dskd_components.engines._tiling.side_rows import SideGroups, SideRows
    from dskd_components.engines.aligned_batch import AlignedBatch
    from dskd_components.engines.workspace import Scratch
    from dskd_components.models.states import Side


class GroupPasses:
    """One space's rows of one side.

    A first pass, without graph, adds up what rows are worth in each group. What the space makes of the sums has a
    gradient to each, and that is what each row of the group is multiplied with in the second pass.

    Args:
        rows: the rows of the side.
        entry: the space, and where its numbers are made.
    """

    def __init__(self, rows: SideRows, entry: SideGroups) -> None:
        self._rows = rows
        self._entry = entry
        self._batch = rows.batches[entry.number]
        other: Side = "teacher" if rows.side == "student" else "student"
        self._streams: dict[Side, TiledStates] = {rows.side: rows.own}
        if entry.projected is not None:
            self._streams[other] = entry.projected
        self._sums: dict[Side, GroupSums] = {}
        self._totals: dict[Side, Tensor] = {}
        self._factors: dict[Side, Tensor] = {}

    @property
    def number(self) -> int:
        """Of the teacher, among those of the side."""
        return self._entry.number

    def begin(self, empty: Mapping[TiledStates, LogitBlock]) -> None:
        """Begin with sums of nothing.

        Args:
            empty: blocks of no rows, which tell how many numbers a row has.
        """
        for side, stream in self._streams.items():
            values = self._values(side, slice(0, 0), empty[stream])
            self._sums[side] = GroupSums(self._batch.positions.groups, values)

    def add(self, rows: slice, blocks: Mapping[TiledStates, LogitBlock]) -> None:
        """Add some rows to the sums, if this space's teacher covers them.

        Args:
            rows: all covered by the same teachers.
            blocks: their logits.
        """
        if self._covers(rows):
            for side, stream in self._streams.items():
                self._sums[side].add(self._values(side, rows, blocks[stream]), self._entry.numbers[rows])

    def combined(self) -> SpaceResult:
        """Return what the space makes of the sums, with a graph down to them and to the space's parameters."""
        for side, stream in self._streams.items():
            self._totals[side] = self._sums[side].total.requires_grad_(stream.requires_grad)
        if self._entry.other is not None:
            self._totals["teacher"] = self._entry.other
        with naming_teacher(self._batch.teacher_name):
            groups = compared_groups(self._space, self._totals, self._batch.group_numbers, self._batch.measure)
            return self._entry.space.found(groups)

    def take_gradient(self, loss: Tensor | None) -> None:
        """Keep what each row is multiplied with, and give the space's parameters their gradients.

        Args:
            loss: scalar: what comes of `combined`, as a part of the loss; None: nothing.
        """
        leaves = self._entry.space.leaves
        learning = [side for side in self._streams if self._totals[side].requires_grad]
        if loss is None or not loss.requires_grad:
            return
        wanted = [*(self._totals[side] for side in learning), *leaves]
        gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
        for side, gradient in zip(learning, gradients, strict=False):
            if gradient is not None:
                # The last is that of rows in no group.
                self._factors[side] = torch.cat([gradient, gradient.new_zeros(1, *gradient.shape[1:])])
        self._entry.space.add_gradients(gradients[len(learning) :])

    def surrogates(self, rows: slice, blocks: Mapping[TiledStates, LogitBlock]) -> Iterator[Tensor]:
        """Yield numbers whose gradient to the logits of some rows is that of the loss through their groups.

        Args:
            rows: as in `add`.
            blocks: their logits, with gradient.
        """
        for side, factors in self._factors.items():
            block = blocks.get(self._streams[side])
            if block is not None and block.requires_grad and self._covers(rows):
                values = self._values(side, rows, block)
                yield (values * factors[self._entry.numbers[rows]]).sum()

    @property
    def _space(self) -> GroupSpace:
        space = self._entry.space.space
        assert isinstance(space, GroupSpace)
        return space

    def _covers(self, rows: slice) -> bool:
        some = self._rows.coverage.covered_by(self.number, rows)
        return bool(some.start < some.stop)

    def _values(self, side: Side, rows: slice, block: LogitBlock) -> Tensor:
        columns = self._batch.columns_for(self._space, self._rows.side)
        places = self._rows.coverage.positions[rows]
        of_rows = {name: column.flatten(0, 1)[places] for name, column in columns.items()}
        return row_values(self._batch, self._space, side, block, self._rows.targets[rows], of_rows)


def row_values(
    batch: AlignedBatch,
    space: GroupSpace,
    side: Side,
    block: LogitBlock,
    targets: Tensor,
    columns: Mapping[str, Tensor],
) -> Tensor:
    """Return ``[n]`` or ``[n, C]``: what a space makes of a block of logits.

    Args:
        batch: whose space it is.
        space: the space.
        side: which model's states the logits come from.
        block: the logits.
        targets: ``[n]``, int64.
        columns: by name, ``[n, ...]``: those that the space reads.
    """
    with naming_teacher(batch.teacher_name):
        rows = TiledGroupRows(
            side=side,
            logits=block.leaf,
            targets=targets,
            temperature=temperature_of(batch.measure, side),
            columns=columns,
            block=block,
        )
        return checked_values(space, space.row_values(rows), len(targets))


@torch.no_grad()
def teacher_group_sums(batch: AlignedBatch, scratch: Scratch, budget: int, products: Products) -> dict[str, Tensor]:
    """Return by name of a space the sums of the teacher's own rows, where its numbers are made at its own positions.

    Args:
        batch: the states of both models.
        scratch: memory for tiles.
        budget: bytes.
        products: how kernels of products are chosen.
    """
    spaces = [space for space in batch.spaces if isinstance(space, GroupSpace) and space.projector is None]
    teacher, covered = batch.teacher, batch.positions.covered["teacher"]
    all_finite = batch.positions.all_finite["teacher"]
    stream = TiledStates(
        teacher.hidden_states.flatten(0, 1),
        teacher.head,
        all_finite=all_finite,
        positions=covered.indices,
        stored_as=teacher.widened_from,
    )
    targets, numbers = covered.rows_of(teacher.outcomes), covered.rows_of(batch.group_numbers["teacher"])
    plan = Plan.of(
        budget=budget,
        rows=len(stream),
        vocabularies=[stream.head.vocabulary_size],
        itemsize=stream.dtype.itemsize,
        widened=widened_bytes(stream.head, stream.dtype, products),
        has_cache=stream.head.weight.device.type == "cpu",
        products=products,
        beside=numbers_beside([stream.head], products),
    )
    stack = HeadStack([stream], plan, stream.dtype, scratch)
    columns = [
        {name: covered.rows_of(column) for name, column in batch.columns_for(space, "teacher").items()}
        for space in spaces
    ]

    def of_rows(logits: Tensor, rows: slice) -> Sequence[Tensor]:
        block = LogitBlock(logits, head=stream.head, all_finite=all_finite, requires_grad=False)
        return [
            row_values(batch, space, "teacher", block, targets[rows], {name: of[rows] for name, of in read.items()})
            for space, read in zip(spaces, columns, strict=True)
        ]

    nothing = slice(0, 0)
    like = of_rows(stack.logits({stream: nothing})[stream], nothing)
    sums = [GroupSums(batch.positions.groups, values) for values in like]
    for tile in plan.tiles(0, len(stream)):
        logits = stack.logits({stream: tile})[stream]
        for block in plan.blocks(tile):
            rows = slice(tile.start + block.start, tile.start + block.stop)
            for total, values in zip(sums, of_rows(logits[block], rows), strict=True):
                total.add(values, numbers[rows])
    return {space.name: total.total for space, total in zip(spaces, sums, strict=True)}
