"""`SideRows`: the positions of one side as rows, and the streams of states that meet there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from dskd_components.engines._tiling.reassociation import projected_stream
from dskd_components.engines._tiling.tiled_states import TiledStates

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.space import Measure, SharedTokens, Space
    from dskd_components.engines.aligned_batch import AlignedBatch
    from dskd_components.engines.workspace import Scratch
    from dskd_components.models.states import Side


@dataclass(frozen=True, eq=False, kw_only=True)
class SideRows:
    """Rows of one side: first the covered positions, then, on the student's side, the other scored ones.

    Args:
        side: whose positions they are.
        own: the side's own states, of all rows.
        targets: ``[N]``, int64.
        positions: ``[N]``, int64: where the rows are among the ``B * T`` positions.
        covered: how many rows are covered; the spaces compare these.
        spaces: the spaces that work on this side, each with the states that come to it.
        teacher_argmax: ``[N]``, int64: the teacher's choices, where a space needs them.
        measure: how distributions are measured.
        shared_tokens: the tokens that both vocabularies have, where a space needs them.
    """

    side: Side
    own: TiledStates
    targets: Tensor
    positions: Tensor
    covered: int
    spaces: tuple[tuple[Space, TiledStates], ...]
    teacher_argmax: Tensor | None
    measure: Measure
    shared_tokens: SharedTokens | None

    @classmethod
    def of(
        cls,
        batch: AlignedBatch,
        side: Side,
        scratch: Scratch,
        *,
        budget: int,
        recompute: bool,
        teacher_argmax: Tensor | None = None,
    ) -> SideRows:
        """Gather the rows of a side.

        Args:
            batch: the states of both models.
            side: whose positions.
            scratch: memory for what may be made to save time.
            budget: bytes, for what may be made to save time.
            recompute: as in `AlignedBatch.projected`.
            teacher_argmax: ``[B, T]``: as in `AlignedBatch.teacher_argmax`.
        """
        states, covered = batch.side(side), batch.covered(side).flatten()
        positions = covered.nonzero().squeeze(1)
        count = len(positions)
        if side == "student" and batch.weights.cross_entropy is not None:
            # The cross entropy runs over all scored positions.
            positions = torch.cat([positions, (states.scored.flatten() & ~covered).nonzero().squeeze(1)])
        return cls(
            side=side,
            own=TiledStates(states.hidden_states.flatten(0, 1), states.head, positions=positions),
            targets=states.targets.flatten()[positions],
            positions=positions,
            covered=count,
            spaces=tuple(
                (space, projected_stream(batch, space, scratch, budget, recompute=recompute))
                for space in batch.spaces
                if space.side == side
            ),
            teacher_argmax=None if teacher_argmax is None else teacher_argmax.flatten()[positions],
            measure=batch.measure,
            shared_tokens=batch.shared_tokens,
        )

    @property
    def streams(self) -> list[TiledStates]:
        """All streams, the side's own first."""
        return [self.own, *(stream for _, stream in self.spaces)]

    def streams_by_head(self) -> list[list[TiledStates]]:
        """Return the streams, those together that one product can serve."""
        groups: list[list[TiledStates]] = []
        for stream in self.streams:
            like = next((group for group in groups if group[0].reads_like(stream)), None)
            if like is None:
                groups.append([stream])
            else:
                like.append(stream)
        return groups

    @property
    def joint_bytes(self) -> int:
        """Memory of the matrices that were made for the streams."""
        return sum(stream.joint_bytes for stream in self.streams)

    @property
    def row_bytes(self) -> int:
        """Memory of the projected states and of their gradients; the side's own are the caller's."""
        return sum(projected.row_bytes for _, projected in self.spaces)

    @property
    def gradient_bytes(self) -> int:
        """Memory of the gradients to the projected states, which wait for the backward pass."""
        return sum(projected.gradient_bytes for _, projected in self.spaces)

    @property
    def scores(self) -> bool:
        """Whether the side's own cross entropy is a term of the loss."""
        return self.side == "student"

    @cached_property
    def learns(self) -> bool:
        """Whether a gradient is wanted for anything."""
        return any(stream.requires_grad for stream in self.streams)

    @cached_property
    def dtype(self) -> torch.dtype:
        """What is computed in."""
        dtypes = {stream.dtype for stream in self.streams}
        return torch.float64 if torch.float64 in dtypes else torch.float32
