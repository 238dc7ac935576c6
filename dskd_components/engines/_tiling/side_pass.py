"""`SidePass`: one way through the positions of a side, tile by tile, for cross entropy, spaces and all gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from dskd_components.components.terms import TokenTerm
from dskd_components.engines._tiling.head_stack import HeadStack
from dskd_components.engines._tiling.logit_block import LogitBlock, TiledRows
from dskd_components.engines._tiling.precomputed_gradient import with_precomputed_gradient
from dskd_components.engines.reduction import TermCounts
from dskd_components.engines.workspace import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dskd_components.components.space import Space, SpaceResult
    from dskd_components.components.terms import Tally
    from dskd_components.engines._tiling.plan import Plan
    from dskd_components.engines._tiling.side_rows import SideRows
    from dskd_components.engines._tiling.tiled_states import TiledStates
    from dskd_components.engines.reduction import LossWeights, Reduction
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
        loss: scalar, part of the graph: the side's part of the loss.
        totals: terms and metrics.
        positions: ``[N]``, int64: where the rows are among all positions.
        predicted: ``[N]``, int64: the side's own most likely token of each row, if wanted.
    """

    loss: Tensor
    totals: Totals
    positions: Tensor
    predicted: Tensor | None


class SidePass:
    """The terms whose rows are the positions of one side.

    Args:
        rows: the positions and the streams of states that meet there.
        plan: how they are cut.
        reduction: how token values become terms.
        scratch: memory for tiles.
        weights: what the terms are multiplied with in the loss.
        predicts: whether the side's own most likely tokens are wanted.
    """

    def __init__(
        self,
        rows: SideRows,
        plan: Plan,
        reduction: Reduction,
        scratch: Scratch,
        *,
        weights: LossWeights,
        predicts: bool = False,
    ) -> None:
        self._rows = rows
        self._plan = plan
        self._weights = weights
        self._stacks = [HeadStack(streams, plan, rows.dtype, scratch) for streams in rows.streams_by_head()]
        self._counted: Mapping[str, TermCounts] = {}
        self._totals = Totals(reduction)
        self._loss = torch.zeros((), dtype=rows.dtype, device=rows.targets.device)
        self._predicted = torch.empty_like(rows.targets) if predicts else None

    def run(self) -> SideResult:
        """Go through all tiles, and return what they came to."""
        self._run()
        gradients = [pair for stream in self._rows.streams for pair in stream.gradients]
        loss = with_precomputed_gradient(self._loss, gradients)
        return SideResult(loss, self._totals, self._rows.positions, self._predicted)

    @torch.no_grad()
    def _run(self) -> None:
        keep_freed_memory(self._plan.block_bytes, self._rows.targets.device)
        for tile in self._tiles():
            logits = self._logits(tile)
            if tile.start == 0 and self._looks_at_the_whole_batch(tile, logits):
                self._counted = self._count_pass()
                logits = self._logits(tile)
            for block in self._plan.blocks(tile):
                self._measure(tile, block, logits)
            if self._rows.learns:
                for stack in self._stacks:
                    stack.backward(tile)

    def _covered_tiles(self) -> Iterator[slice]:
        # Without a covered position the spaces still give their terms, of no rows.
        yield from self._plan.tiles(0, self._rows.covered) if self._rows.covered else [slice(0, 0)]

    def _tiles(self) -> Iterator[slice]:
        yield from self._covered_tiles()
        yield from self._plan.tiles(self._rows.covered, len(self._rows.own))

    def _logits(self, tile: slice) -> dict[TiledStates, Tensor]:
        logits: dict[TiledStates, Tensor] = {}
        for stack in self._stacks:
            logits |= stack.logits(tile)
        return logits

    def _measure(self, tile: slice, block: slice, logits: Mapping[TiledStates, Tensor]) -> None:
        """Add a block's part of loss and terms, and write the loss's gradient over its logits."""
        rows = slice(tile.start + block.start, tile.start + block.stop)
        blocks = self._blocks(block, logits, requires_grad=True)
        if self._predicted is not None:
            self._predicted[rows] = blocks[self._rows.own].predicted()
        with torch.enable_grad():
            loss = self._loss_of(rows, blocks)
        self._loss += loss.detach()
        if self._rows.learns:
            leaves = list({id(leaf): leaf for part in blocks.values() for leaf in part.leaves}.values())
            gradients = torch.autograd.grad(loss, leaves, allow_unused=True) if loss.requires_grad else []
            of_leaves = {id(leaf): gradient for leaf, gradient in zip(leaves, gradients, strict=bool(gradients))}
            for part in blocks.values():
                if part.requires_grad:
                    part.write_gradient(of_leaves)

    def _loss_of(self, rows: slice, blocks: Blocks) -> Tensor:
        """Return the part of the loss that some rows make, with a graph down to the blocks' leaves."""
        loss = self._loss.new_zeros(())
        weights = self._weights
        if self._rows.scores and weights.cross_entropy is not None:
            term = TokenTerm(values=blocks[self._rows.own].cross_entropy(self._rows.targets[rows]))
            loss = loss + weights.cross_entropy * self._totals.add("ce", term, TermCounts.of(term))
        for space, projected in self._spaces_in(blocks):
            found = self._compare(space, projected, rows, blocks)
            self._totals.add_metrics(found)
            for name, term in found.terms.items():
                weight = weights.distillation * weights.of(name, term.weight)
                loss = loss + weight * self._totals.add(name, term, self._kept(name, term))
        return loss

    def _blocks(self, block: slice, logits: Mapping[TiledStates, Tensor], *, requires_grad: bool) -> Blocks:
        return {
            stream: LogitBlock(
                tile[block],
                head=stream.head,
                all_finite=stream.all_finite,
                requires_grad=requires_grad and stream.requires_grad,
            )
            for stream, tile in logits.items()
        }

    def _spaces_in(self, blocks: Blocks) -> list[tuple[Space, TiledStates]]:
        """Return the spaces whose projected states have come to some rows: beyond the covered ones there are none."""
        return [(space, projected) for space, projected in self._rows.spaces if projected in blocks]

    def _compare(self, space: Space, projected: TiledStates, rows: slice, blocks: Blocks) -> SpaceResult:
        own, other = blocks[self._rows.own], blocks[projected]
        student, teacher = (own, other) if self._rows.side == "student" else (other, own)
        choice = self._rows.teacher_argmax
        return space.compare(
            TiledRows(
                student_logits=student.leaf,
                teacher_logits=teacher.leaf,
                student=student,
                teacher=teacher,
                targets=self._rows.targets[rows],
                teacher_argmax=choice[rows] if choice is not None and space.needs_teacher_argmax else None,
                measure=self._rows.measure,
                shared_tokens=self._rows.shared_tokens if space.needs_shared_tokens else None,
            )
        )

    def _kept(self, name: str, term: TokenTerm) -> TermCounts:
        """Return how many rows of the batch count in a term."""
        if name in self._counted:
            return self._counted[name]
        if term.denominator == "scored":
            return TermCounts.of(term)  # the term's value does not depend on it
        everything = torch.tensor(self._rows.covered, device=term.values.device)
        return TermCounts(everything, everything, None)

    def _looks_at_the_whole_batch(self, tile: slice, logits: Mapping[TiledStates, Tensor]) -> bool:
        """Return whether a term needs counts of the whole batch before its gradient can be known."""
        block = next(self._plan.blocks(tile))
        blocks = self._blocks(block, logits, requires_grad=False)
        return any(term.needs_counts for _, term in self._terms(block, blocks))

    def _count_pass(self) -> dict[str, TermCounts]:
        """Count the rows of such terms, in a pass of its own that has no gradients."""
        counts: dict[str, TermCounts] = {}
        for tile in self._covered_tiles():
            logits = self._logits(tile)
            for block in self._plan.blocks(tile):
                rows = slice(tile.start + block.start, tile.start + block.stop)
                for name, term in self._terms(rows, self._blocks(block, logits, requires_grad=False)):
                    if term.needs_counts:
                        counts[name] = counts[name] + TermCounts.of(term) if name in counts else TermCounts.of(term)
        return counts

    def _terms(self, rows: slice, blocks: Blocks) -> Iterator[tuple[str, TokenTerm]]:
        for space, projected in self._spaces_in(blocks):
            yield from self._compare(space, projected, rows, blocks).terms.items()
