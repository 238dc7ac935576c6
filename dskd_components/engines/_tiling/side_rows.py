"""`SideRows`: the positions of one side as rows, and the streams of states that meet there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch

from dskd_components.components.group_space import GroupSpace
from dskd_components.engines._tiling.coverage import Coverage
from dskd_components.engines._tiling.reassociation import projected_stream
from dskd_components.engines._tiling.tiled_states import TiledStates
from dskd_components.engines.built_spaces import BuiltSpace
from dskd_components.models.batch import naming_teacher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dskd_components.engines._tiling.products import Products
    from dskd_components.engines.aligned_batch import AlignedBatch
    from dskd_components.engines.workspace import Scratch
    from dskd_components.models.states import Side


class SideSpace(NamedTuple):
    """A space that works on a side.

    Args:
        number: of the teacher, among those of the side.
        space: the space.
        projected: the states that come to it.
    """

    number: int
    space: BuiltSpace
    projected: TiledStates


class SideGroups(NamedTuple):
    """A space that combines groups, some of whose numbers are made on a side.

    Args:
        number: of the teacher, among those of the side.
        space: the space.
        projected: the states that come to it; None where the other side's numbers are made at its own positions.
        numbers: ``[N]``, int64: the group of each row, -1 for none.
        other: ``[G]`` or ``[G, C]``: the sums of the other side's rows, where these are not among those of this side.
    """

    number: int
    space: BuiltSpace
    projected: TiledStates | None
    numbers: Tensor
    other: Tensor | None


@dataclass(frozen=True, eq=False, kw_only=True)
class SideRows:
    """Rows of one side: first the covered positions, then, on the student's side, the other scored ones.

    Args:
        side: whose positions they are.
        batches: the batch as aligned with each of several teachers; for a teacher's side there is one.
        own: the side's own states, of all rows.
        targets: ``[N]``, int64.
        coverage: where the rows are among the ``B * T`` positions, and which teachers cover them; the spaces
            compare these.
        spaces: the spaces that work on this side, each with the states that come to it.
        teacher_argmax: for each teacher, ``[N]``, int64: its choices, where a space needs them.
        groups: the spaces that combine groups of this side's positions.
    """

    side: Side
    batches: Sequence[AlignedBatch]
    own: TiledStates
    targets: Tensor
    coverage: Coverage
    spaces: tuple[SideSpace, ...]
    teacher_argmax: Sequence[Tensor | None]
    groups: tuple[SideGroups, ...] = ()

    @classmethod
    def of(
        cls,
        batches: Sequence[AlignedBatch],
        side: Side,
        scratch: Scratch,
        *,
        budget: int,
        products: Products,
        recompute: bool,
        teacher_argmax: Sequence[Tensor | None] | None = None,
        group_sums: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> SideRows:
        """Gather the rows of a side.

        Args:
            batches: the batch as aligned with each teacher; they have this side in common.
            side: whose positions.
            scratch: memory for what may be made to save time.
            budget: bytes, for what may be made to save time.
            products: how kernels are chosen.
            recompute: as in `AlignedBatch.projected`.
            teacher_argmax: for each teacher, ``[B, T]``: as in `AlignedBatch.teacher_argmax`.
            group_sums: for each teacher, by name of a space, the sums of its own rows.
        """
        states, scored = batches[0].side(side), batches[0].positions.scored[side].mask
        comparing = [[space for space in batch.spaces if space.side == side] for batch in batches]
        masks = [
            batch.positions.covered[side].mask if spaces else torch.zeros_like(scored)
            for batch, spaces in zip(batches, comparing, strict=True)
        ]
        wanted = torch.stack(masks).any(0)
        if side == "student" and any(batch.weights.cross_entropy is not None for batch in batches):
            # The cross entropy runs over all scored positions.
            wanted = wanted | scored
        coverage = Coverage.of(wanted, masks, states.targets.device)
        positions = coverage.positions
        share = budget // max(1, sum(len(spaces) for spaces in comparing))
        found, groups = [], []
        for number, (batch, spaces) in enumerate(zip(batches, comparing, strict=True)):
            with naming_teacher(batch.teacher_name):
                for space in spaces:
                    built = BuiltSpace(batch, space, states.hidden_states.dtype, as_leaves=True)
                    own_alone = isinstance(space, GroupSpace) and space.projector is None
                    projected = (
                        None
                        if own_alone
                        else projected_stream(
                            batch,
                            space,
                            scratch,
                            share,
                            products=products,
                            recompute=recompute,
                            positions=coverage.reordered[number],
                        )
                    )
                    if isinstance(space, GroupSpace):
                        numbers = batch.group_numbers[side].flatten()[positions]
                        other = group_sums[number][space.name] if own_alone and group_sums is not None else None
                        groups.append(SideGroups(number, built, projected, numbers, other))
                    else:
                        assert projected is not None
                        found.append(SideSpace(number, built, projected))
        choices = [None] * len(batches) if teacher_argmax is None else teacher_argmax
        return cls(
            side=side,
            batches=batches,
            own=TiledStates(
                states.hidden_states.flatten(0, 1),
                states.head,
                all_finite=batches[0].positions.all_finite[side],
                positions=positions,
                stored_as=states.widened_from,
            ),
            targets=states.outcomes.flatten()[positions],
            coverage=coverage,
            spaces=tuple(found),
            teacher_argmax=[None if choice is None else choice.flatten()[positions] for choice in choices],
            groups=tuple(groups),
        )

    def of_streams(self, rows: slice) -> dict[TiledStates, slice]:
        """Return which rows of each stream, counted among its own, some rows are; streams that have none are left out.

        Args:
            rows: the rows. None at all: every stream has none of them.
        """
        nothing = rows.start == rows.stop
        projected = {stream: self.coverage.covered_by(number, rows) for number, stream in self._projected}
        return {self.own: rows} | {
            stream: some for stream, some in projected.items() if nothing or some.start < some.stop
        }

    @property
    def some_have_none(self) -> bool:
        """Whether there are no rows, or none for a space to compare."""
        return len(self.own) == 0 or not all(self.covered(entry.number) for entry in self.spaces)

    def covered(self, number: int) -> int:
        """Return how many rows a teacher covers.

        Args:
            number: of the teacher.
        """
        return sum(
            section.rows.stop - section.rows.start for section in self.coverage.sections if section.covering[number]
        )

    @property
    def streams(self) -> list[TiledStates]:
        """All streams, the side's own first."""
        return [self.own, *(stream for _, stream in self._projected)]

    @cached_property
    def _projected(self) -> list[tuple[int, TiledStates]]:
        """The streams of projected states, each with the number of its teacher."""
        of_groups = [(entry.number, entry.projected) for entry in self.groups if entry.projected is not None]
        return [*((entry.number, entry.projected) for entry in self.spaces), *of_groups]

    @property
    def built(self) -> list[BuiltSpace]:
        """The spaces that work on this side."""
        return [*(entry.space for entry in self.spaces), *(entry.space for entry in self.groups)]

    @property
    def teachers(self) -> int:
        """How many teachers are compared with."""
        return len({entry.number for entry in self.spaces} | {entry.number for entry in self.groups})

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
        return sum(stream.row_bytes for _, stream in self._projected)

    @property
    def gradient_bytes(self) -> int:
        """Memory of the gradients to the projected states, which wait for the backward pass."""
        return sum(stream.gradient_bytes for _, stream in self._projected)

    @property
    def scores(self) -> bool:
        """Whether the side's own cross entropy is a term of the loss."""
        return self.side == "student"

    @cached_property
    def learns(self) -> bool:
        """Whether a gradient is wanted for anything."""
        return any(stream.requires_grad for stream in self.streams) or any(space.leaves for space in self.built)

    @cached_property
    def dtype(self) -> torch.dtype:
        """What is computed in."""
        dtypes = {stream.dtype for stream in self.streams}
        return torch.float64 if torch.float64 in dtypes else torch.float32
