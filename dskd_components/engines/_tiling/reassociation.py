"""Joining an affine projection with the head behind it, ``(h P^T) W^T = h (W P)^T``, where that is cheaper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from dskd_components.engines._tiling.half_products import gradient_parts, splits
from dskd_components.engines._tiling.plan import SHARE
from dskd_components.engines._tiling.projected_stream import (
    JoinedLogits,
    JoinedThroughout,
    ProjectedByTile,
    joint_width,
)
from dskd_components.engines._tiling.tiled_states import TiledStates

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.space import Space
    from dskd_components.engines._tiling.products import Products
    from dskd_components.engines.aligned_batch import AffineInput, AlignedBatch
    from dskd_components.engines.workspace import Scratch
    from dskd_components.models.states import Side

Learner = Literal["nothing", "states", "projection"]
"""The last of these that a gradient is wanted for; with the projection, the states learn too."""

Way = Literal["apart", "logits", "throughout"]
"""What goes through the joint matrix: nothing, the logits, or logits and gradients."""


class Shapes(NamedTuple):
    """What decides which way is the cheapest.

    Args:
        rows: states that are read.
        source: their width.
        target: their width once they are projected.
        vocabulary: logits of a row.
        rounded: whether gradients are multiplied with the head in half precision, in about half of the time.
    """

    rows: int
    source: int
    target: int
    vocabulary: int
    rounded: bool = False

    def cheapest(self, learner: Learner, most_numbers: float) -> Way:
        """Return the way that takes the fewest multiplications.

        Args:
            learner: what learns.
            most_numbers: how many numbers may be held in matrices that are made for it.
        """
        joint = self.vocabulary * joint_width(self.source)
        held: dict[Way, int] = {"apart": 0, "logits": joint, "throughout": joint}
        if learner == "projection":
            held["throughout"] += joint  # its gradient
        ways: list[Way] = [way for way, numbers in held.items() if numbers <= most_numbers]
        return min(ways, key=lambda way: self.multiplications(way, learner))

    def multiplications(self, way: Way, learner: Learner) -> int:
        """Return how many multiplications projection and head take, forward and backward, or what takes as long."""
        rows, source, target, vocabulary, rounded = self
        read, read_joined = rows * target * vocabulary, rows * source * vocabulary
        project, join = rows * source * target, vocabulary * source * target
        forward = project + read if way == "apart" else join + read_joined
        if learner == "nothing":
            return forward
        if way == "throughout":
            return forward + read_joined + (read_joined + join if learner == "projection" else 0)
        return forward + (read // 2 if rounded else read) + (2 * project if learner == "projection" else project)


def projected_stream(
    batch: AlignedBatch,
    space: Space,
    scratch: Scratch,
    budget: int,
    *,
    products: Products,
    recompute: bool,
    positions: Tensor | None = None,
) -> TiledStates:
    """Return the states that come to a space as a stream, by the cheapest way round.

    Args:
        batch: the states of both models.
        space: where they come to.
        scratch: memory for matrices that are made for this.
        budget: bytes; half of it at most is for matrices that are made for this.
        products: how kernels are chosen.
        recompute: as in `AlignedBatch.projected`.
        positions: as in `AlignedBatch.projected`.
    """
    here, source = batch.side(space.side), batch.source(space)
    if here.head.shards is not None and not here.head.shards.same_rows:
        budget = 0  # rows of other ranks have come through their projections, so nothing can be joined with the head
    other: Side = "teacher" if space.side == "student" else "student"
    all_finite = batch.positions.all_finite[space.side if space.projector else other]
    weight, dtype = here.head.local.valid_weight, source.hidden_states.dtype
    shapes = Shapes(
        rows=len(batch.positions.covered[space.side]),
        source=source.head.hidden_size,
        target=here.head.hidden_size,
        # Ranks that have cut a head must choose alike, so all count the widest part.
        vocabulary=here.head.vocabulary_size if here.head.shards is None else here.head.shards.widest,
        rounded=gradient_parts(products, weight, dtype) == 1,
    )
    most_numbers = budget / 2 / source.hidden_states.itemsize
    # What learns is known only once the states are aligned, which costs something, too.
    learners: tuple[Learner, ...] = ("nothing", "states", "projection")
    widens = shapes.source <= shapes.target
    # The outcome of all other tokens is no product of states and a matrix. A joint matrix is in float32: it saves less
    # than products with a head as it is stored.
    reads_head = splits(products, weight, dtype)
    joins = not here.head.has_rest and not reads_head
    may_join = joins and any(shapes.cheapest(learner, most_numbers) != "apart" for learner in learners)
    if space.projector and (widens or may_join):
        affine_input = batch.affine_input(space, positions=positions)
        if affine_input is not None:
            most_numbers = max(0, budget - affine_input.made_bytes) / 2 / source.hidden_states.itemsize
            head = here.head.detach()
            way: Way = shapes.cheapest(_learner(affine_input), most_numbers) if joins else "apart"
            if way != "apart":
                joined = JoinedLogits if way == "logits" else JoinedThroughout
                return joined(affine_input, head, budget // SHARE, scratch, all_finite=all_finite, products=products)
            if widens:
                return ProjectedByTile(affine_input, head, all_finite=all_finite, products=products)
    projected = batch.projected(space, recompute=recompute, positions=positions)
    return TiledStates(*projected, all_finite=all_finite, stored_as=batch.stored_as(space))


def _learner(affine_input: AffineInput) -> Learner:
    if not torch.is_grad_enabled():
        return "nothing"
    if any(part is not None and part.requires_grad for part in affine_input.affine):
        return "projection"
    return "states" if affine_input.states.requires_grad or affine_input.weights.requires_grad else "nothing"
