"""`SidePass`: one way through the positions of a side, tile by tile, for cross entropy, spaces and all gradients."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from dskd_components.components.terms import TokenTerm
from dskd_components.engines._tiling.compiled_block import CompiledBlock, write_gradients
from dskd_components.engines._tiling.group_passes import GroupPasses
from dskd_components.engines._tiling.head_stack import HeadStack
from dskd_components.engines._tiling.logit_block import LogitBlock, TiledRows
from dskd_components.engines._tiling.logit_part import LogitPart, PartRows
from dskd_components.engines.reduction import TermCounts, weighted_sum
from dskd_components.engines.workspace import keep_freed_memory
from dskd_components.models.batch import naming_teacher

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dskd_components.components.space import SpaceResult
    from dskd_components.components.terms import Tally
    from dskd_components.engines._tiling.coverage import Coverage
    from dskd_components.engines._tiling.plan import Plan
    from dskd_components.engines._tiling.side_rows import SideRows, SideSpace
    from dskd_components.engines._tiling.tiled_states import TiledStates
    from dskd_components.engines.reduction import Reduction
    from dskd_components.engines.workspace import Scratch


class Totals:
    """Values and counts of terms, and tallies of metrics, summed over the tiles so far.

    Args:
        reduction: how token values become terms.
    """

    def __init__(self, reduction: Reduction) -> None:
        self._reduction = reduction
        self.values: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        self.metrics: dict[str, Tally] = {}

    def add(self, name: str, term: TokenTerm, kept: TermCounts) -> Tensor:
        """Add a tile's part of a term, and return it: a scalar, part of the graph.

        Args:
            name: of the term.
            term: the tile's rows.
            kept: how many rows of the whole batch count.
        """
        tally = kept.tally(term)
        part = self._reduction.reduced(tally.total, term.denominator, kept.count)
        self.values[name] = self.values[name] + part.detach() if name in self.values else part.detach()
        self.counts[name] = self.counts[name] + tally.count if name in self.counts else tally.count
        return part

    def add_metrics(self, found: SpaceResult) -> None:
        """Add a tile's tallies."""
        for name, tally in found.metrics.items():
            self.metrics[name] = self.metrics[name] + tally if name in self.metrics else tally


Blocks = dict["TiledStates", LogitBlock]


class SideResult(NamedTuple):
    """What a pass over one side came to.

    Args:
        losses: for each teacher a scalar, its part of the loss on this side, without graph.
        gradients: the tensors that learn, each with the gradient of the losses' sum to it.
        totals: for each teacher, terms and metrics.
        coverage: where the rows are among all positions.
        predicted: ``[N]``, int64: the side's own most likely token of each row, if wanted.
    """

    losses: list[Tensor]
    gradients: list[tuple[Tensor, Tensor]]
    totals: list[Totals]
    coverage: Coverage
    predicted: Tensor | None


class SidePass:
    """The terms whose rows are the positions of one side.

    Args:
        rows: the positions and the streams of states that meet there.
        plan: how they are cut.
        reduction: how token values become terms.
        scratch: memory for tiles.
        predicts: whether the side's own most likely tokens are wanted.
    """

    def __init__(
        self,
        rows: SideRows,
        plan: Plan,
        reduction: Reduction,
        scratch: Scratch,
        *,
        predicts: bool = False,
    ) -> None:
        self._rows = rows
        self._plan = plan
        self._stacks = [self._stack(streams, scratch) for streams in rows.streams_by_head()]
        self._counted: Mapping[tuple[int, str], TermCounts] = {}
        self._in_one_block = False
        self._reduction = reduction
        self._groups = [GroupPasses(rows, entry) for entry in rows.groups]
        self._totals = [Totals(reduction) for _ in rows.batches]
        self._losses = [torch.zeros((), dtype=rows.dtype, device=rows.targets.device) for _ in rows.batches]
        self._predicted = torch.empty_like(rows.targets) if predicts else None

    def _stack(self, streams: list[TiledStates], scratch: Scratch) -> HeadStack:
        return HeadStack(streams, self._plan, self._rows.dtype, scratch)

    def run(self) -> SideResult:
        """Go through all tiles, and return what they came to."""
        self._run()
        gradients = [pair for stream in self._rows.streams for pair in stream.gradients_of_all_ranks()]
        gradients += [pair for space in self._rows.built for pair in space.gradients]
        return SideResult(self._losses, gradients, self._totals, self._rows.coverage, self._predicted)

    @torch.no_grad()
    def _run(self) -> None:
        keep_freed_memory(self._plan.block_bytes, self._rows.targets.device)
        nothing = slice(0, 0)
        if self._some_have_none:
            # Where a teacher covers no position, its spaces still give their terms, of no rows.
            self._measure(nothing, nothing, self._logits(nothing))
        self._in_one_block = self._has_one_block()
        if not self._in_one_block and self._looks_at_the_whole_batch(nothing):
            self._counted = self._count_pass()
        if self._groups:
            self._combine_groups()
        for tile in self._tiles():
            logits = self._logits(tile)
            for rows in self._blocks_of(tile):
                self._measure(tile, rows, logits)
            if self._rows.learns:
                self._backward(tile)

    @property
    def _some_have_none(self) -> bool:
        return self._rows.some_have_none

    def _own(self, rows: slice) -> slice:
        """Return which of this rank's rows some rows are: these, unless all ranks' rows are counted alike."""
        return rows

    def _covered_tiles(self) -> Iterator[slice]:
        yield from self._plan.tiles(0, self._rows.coverage.covered)

    def _tiles(self) -> Iterator[slice]:
        yield from self._covered_tiles()
        yield from self._plan.tiles(self._rows.coverage.covered, len(self._rows.own))

    def _blocks_of(self, tile: slice) -> Iterator[slice]:
        """Yield the rows of each block of a tile; all rows of a block are covered by the same teachers."""
        for section in self._rows.coverage.cut(tile):
            for block in self._plan.blocks(section):
                yield slice(section.start + block.start, section.start + block.stop)

    def _has_one_block(self) -> bool:
        """Return whether all rows that spaces compare are in one block, which then knows all that there is to count."""
        blocks = (rows for tile in self._covered_tiles() for rows in self._blocks_of(tile))
        return self._rows.own.shards is None and len(list(islice(blocks, 2))) == 1

    def _logits(self, tile: slice) -> dict[TiledStates, Tensor]:
        logits: dict[TiledStates, Tensor] = {}
        rows = self._rows.of_streams(tile)
        for stack in self._stacks:
            logits |= stack.logits(rows)
        return logits

    def _backward(self, tile: slice) -> None:
        for stack in self._stacks:
            stack.backward(self._rows.of_streams(tile))

    def _measure(self, tile: slice, rows: slice, logits: Mapping[TiledStates, Tensor]) -> None:
        """Add a block's part of loss and terms, and write the loss's gradient over its logits."""
        blocks = self._blocks(tile, rows, logits, requires_grad=True)
        if self._predicted is not None:
            self._predicted[self._own(rows)] = blocks[self._rows.own].predicted()
        with torch.enable_grad():
            parts = [self._loss_of(number, rows, blocks) for number in range(len(self._losses))]
            # What groups come to is known already; their rows only hand gradients on.
            of_groups = [part for group in self._groups for part in group.surrogates(rows, blocks)]
            loss = sum([*parts[1:], *of_groups], parts[0])
        for total, part in zip(self._losses, parts, strict=True):
            total.add_(part.detach())
        if self._rows.learns and rows.start < rows.stop:
            built = self._rows.built
            of_blocks = [leaf for block in blocks.values() for leaf in block.leaves]
            of_spaces = [leaf for space in built for leaf in space.leaves]
            leaves = list({id(leaf): leaf for leaf in (*of_blocks, *of_spaces)}.values())
            gradients = torch.autograd.grad(loss, leaves, allow_unused=True) if loss.requires_grad else []
            of_leaves = {id(leaf): gradient for leaf, gradient in zip(leaves, gradients, strict=bool(gradients))}
            write_gradients([block for block in blocks.values() if block.requires_grad], of_leaves)
            for space in built:
                space.add_gradients([of_leaves.get(id(leaf)) for leaf in space.leaves])

    def _loss_of(self, number: int, rows: slice, blocks: Blocks) -> Tensor:
        """Return one teacher's part of the loss that some rows make, with a graph down to the blocks' leaves."""
        loss = self._losses[number].new_zeros(())
        weights, totals = self._rows.batches[number].weights, self._totals[number]
        if self._rows.scores and weights.cross_entropy is not None:
            term = TokenTerm(values=blocks[self._rows.own].cross_entropy(self._rows.targets[self._own(rows)]))
            part = totals.add("ce", term, TermCounts.of(term))
            loss = loss + weights.cross_entropy * part if weights.cross_entropy else loss
        for entry in self._spaces_in(blocks):
            if entry.number == number:
                found = self._compare(entry, rows, blocks)
                totals.add_metrics(found)
                for name, term in found.terms.items():
                    part = totals.add(name, term, self._kept(number, name, term))
                    weight = weights.in_loss(name, term.weight)
                    # Zero times infinity would be no number.
                    loss = loss + weight * part if weight else loss
        return loss

    def _blocks(self, tile: slice, rows: slice, logits: Mapping[TiledStates, Tensor], *, requires_grad: bool) -> Blocks:
        in_tile = self._rows.of_streams(tile)
        return {
            stream: logit_block(
                logits[stream][some.start - in_tile[stream].start : some.stop - in_tile[stream].start],
                stream,
                length=some.stop - some.start,
                requires_grad=requires_grad and stream.requires_grad,
                compiled=self._plan.compiled,
            )
            for stream, some in self._rows.of_streams(rows).items()
        }

    def _spaces_in(self, blocks: Blocks) -> list[SideSpace]:
        """Return the spaces whose projected states have come to some rows: beyond the covered ones there are none."""
        return [entry for entry in self._rows.spaces if entry.projected in blocks]

    def _compare(self, entry: SideSpace, rows: slice, blocks: Blocks) -> SpaceResult:
        number, built, projected = entry
        space = built.space
        batch, choice = self._rows.batches[number], self._rows.teacher_argmax[number]
        own, other = blocks[self._rows.own], blocks[projected]
        student, teacher = (own, other) if self._rows.side == "student" else (other, own)
        with naming_teacher(batch.teacher_name):
            compared = (TiledRows if self._rows.own.shards is None else PartRows)(
                student_logits=student.leaf,
                teacher_logits=teacher.leaf,
                student=student,
                teacher=teacher,
                targets=self._rows.targets[self._own(rows)],
                teacher_argmax=choice[self._own(rows)] if choice is not None and space.needs_teacher_argmax else None,
                measure=batch.measure,
                shared_tokens=batch.shared_tokens if space.needs_shared_tokens else None,
                columns={
                    name: column.flatten(0, 1)[self._rows.coverage.positions[self._own(rows)]]
                    for name, column in batch.columns_for(space, space.side).items()
                },
                teacher_to_student=batch.teacher_to_student if space.needs_vocabulary_map else None,
            )
            common = batch.common_ids if space.one_vocabulary else None
            return built.found(compared if common is None else compared.restricted(common))

    def _kept(self, number: int, name: str, term: TokenTerm) -> TermCounts:
        """Return how many rows of the batch count in a term."""
        if (number, name) in self._counted:
            return self._counted[number, name]
        # The value of a term that is divided by the scored tokens does not depend on it.
        if term.denominator == "scored" or self._in_one_block:
            return TermCounts.of(term)
        everything = torch.full((), self._rows.covered(number), device=term.values.device)
        return TermCounts(everything, everything, None)

    def _looks_at_the_whole_batch(self, rows: slice) -> bool:
        """Return whether a term needs counts of the whole batch before its gradient can be known; any rows tell."""
        blocks = self._blocks(rows, rows, self._logits(rows), requires_grad=False)
        return any(term.needs_counts for _, term in self._terms(rows, blocks))

    def _count_pass(self) -> dict[tuple[int, str], TermCounts]:
        """Count the rows of such terms, in a pass of its own that has no gradients."""
        counts: dict[tuple[int, str], TermCounts] = {}
        for tile in self._covered_tiles():
            logits = self._logits(tile)
            for rows in self._blocks_of(tile):
                for key, term in self._terms(rows, self._blocks(tile, rows, logits, requires_grad=False)):
                    if term.needs_counts:
                        counts[key] = counts[key] + TermCounts.of(term) if key in counts else TermCounts.of(term)
        return counts

    def _combine_groups(self) -> None:
        """Add up what rows are worth in each group, in a pass of its own, and take what the spaces make of that."""
        nothing = slice(0, 0)
        empty = self._blocks(nothing, nothing, self._logits(nothing), requires_grad=False)
        for group in self._groups:
            group.begin(empty)
        for tile in self._covered_tiles():
            logits = self._logits(tile)
            for rows in self._blocks_of(tile):
                blocks = self._blocks(tile, rows, logits, requires_grad=False)
                for group in self._groups:
                    group.add(rows, blocks)
        for group in self._groups:
            number = group.number
            weights, totals = self._rows.batches[number].weights, self._totals[number]
            with torch.enable_grad():
                found = group.combined()
                values, counts = self._reduction.values(found.terms)
                in_loss = {name: weights.in_loss(name, term.weight) for name, term in found.terms.items()}
                loss = weighted_sum(values, in_loss)
            totals.values |= {name: value.detach() for name, value in values.items()}
            totals.counts |= counts
            totals.add_metrics(found)
            if loss is not None:
                self._losses[number].add_(loss.detach())
            group.take_gradient(loss)

    def _terms(self, rows: slice, blocks: Blocks) -> Iterator[tuple[tuple[int, str], TokenTerm]]:
        for entry in self._spaces_in(blocks):
            for name, term in self._compare(entry, rows, blocks).terms.items():
                yield (entry.number, name), term


def logit_block(
    logits: Tensor, stream: TiledStates, *, length: int, requires_grad: bool, compiled: bool = False
) -> LogitBlock:
    """Return a block of a stream's logits.

    Args:
        logits: ``[n, V]``; where the head is cut over ranks, this rank's columns.
        stream: that they come from.
        length: how many of the rows are this rank's.
        requires_grad: whether a gradient will be asked for.
        compiled: whether operations on single logits are compiled; where a head is cut they never are.
    """
    if stream.shards is None:
        block = CompiledBlock if compiled else LogitBlock
        return block(logits, head=stream.head, all_finite=stream.all_finite, requires_grad=requires_grad)
    return LogitPart(
        logits,
        head=stream.head,
        shards=stream.shards,
        length=length,
        all_finite=stream.all_finite,
        requires_grad=requires_grad,
    )
