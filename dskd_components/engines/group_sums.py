"""What rows add up to in each group of an alignment, and the groups that a space combines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from dskd_components.components.group_space import ComparedGroups, GroupSpace
from dskd_components.errors import ConfigurationError
from dskd_components.models.states import small_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from torch import Tensor

    from dskd_components.components.alignment import Alignment
    from dskd_components.components.space import Measure
    from dskd_components.models.states import Side


SIDES: Final[tuple[Side, Side]] = ("student", "teacher")
"""Both sides, in the order of a pair."""


def require_groups(alignment: Alignment, space: GroupSpace) -> tuple[Tensor, Tensor]:
    """Return the groups of an alignment, for a space that sums over them.

    Args:
        alignment: of a batch.
        space: for the message.

    Raises:
        ConfigurationError: the alignment has none.
    """
    found = alignment.groups_of_positions()
    if found is None:
        raise ConfigurationError(
            f"The space {space.name!r} sums over the groups of an alignment, and this one ({type(alignment).__name__}) "
            "has none: each position belongs to several in some degree. Use an aligner that groups positions, such as "
            "'span'; an Alignment of your own says so by groups_of_positions()."
        )
    return found


def numbered_groups(groups: tuple[Tensor, Tensor], covered: Mapping[Side, Tensor]) -> tuple[dict[Side, Tensor], Tensor]:
    """Number the groups that have covered positions on both sides from 0 on, without asking the device how many.

    Args:
        groups: as `Alignment.groups_of_positions` gives them.
        covered: by side, ``[B, T]``, bool.

    Returns:
        By side ``[B, T]``, int64, the number of each position's group or -1; and ``[B, Ts]``, bool, true at one
        position of each group.

    Examples:
        >>> student, teacher = torch.tensor([[7, 7, 2, -1]]), torch.tensor([[2, 7, 5]])
        >>> covered = {"student": student >= 0, "teacher": teacher >= 0}
        >>> numbers, first = numbered_groups((student, teacher), covered)
        >>> numbers["student"], numbers["teacher"], first
        (tensor([[ 1,  1,  0, -1]]), tensor([[ 0,  1, -1]]), tensor([[ True, False,  True, False]]))
    """
    student, teacher = (group.where(covered[side], -1) for side, group in zip(SIDES, groups, strict=True))
    slots = student.numel() + teacher.numel()
    small = small_numbers(student, teacher)
    sizes = torch.stack(
        [
            group.new_zeros(slots).scatter_add(0, number.flatten(), (group >= 0).long().flatten())
            for number, group in zip(small, (student, teacher), strict=True)
        ]
    )
    both = (sizes > 0).all(0)
    compact = (both.cumsum(0) - 1).where(both, -1)
    numbers = {
        side: compact[number].where(group >= 0, -1)
        for side, number, group in zip(SIDES, small, (student, teacher), strict=True)
    }
    flat = numbers["student"].flatten()
    positions = torch.arange(len(flat), device=flat.device)
    first = positions.new_full((slots + 1,), len(flat))
    first = first.scatter_reduce(0, flat.where(flat >= 0, slots), positions, "amin")
    return numbers, (first[flat] == positions).logical_and(flat >= 0).view_as(student)


class GroupSums:
    """Sums over groups that rows are added to, some at a time.

    Args:
        count: how many groups there are.
        like: ``[0]`` or ``[0, C]``: what rows look like.
    """

    def __init__(self, count: int, like: Tensor) -> None:
        self._sums = like.new_zeros(count + 1, *like.shape[1:])

    def add(self, values: Tensor, numbers: Tensor) -> GroupSums:
        """Add rows, in place where there is no graph.

        Args:
            values: ``[n]`` or ``[n, C]``.
            numbers: ``[n]``, int64: the group of each; -1 for none.
        """
        rest = len(self._sums) - 1
        slots = numbers.where(numbers >= 0, rest)
        if values.requires_grad:
            self._sums = self._sums.index_add(0, slots, values)
        else:
            self._sums.index_add_(0, slots, values)
        return self

    @property
    def total(self) -> Tensor:
        """``[G]`` or ``[G, C]``: what the rows of each group add up to."""
        return self._sums[:-1]


def compared_groups(
    space: GroupSpace, sums: Mapping[Side, Tensor], numbers: Mapping[Side, Tensor], measure: Measure
) -> ComparedGroups:
    """Return the groups of a batch as a space combines them.

    Args:
        space: the space.
        sums: by side, ``[G]`` or ``[G, C]``: the sums of its rows.
        numbers: by side, ``[B, T]``: the group of each position, or -1.
        measure: how the spec measures.
    """
    sizes = {}
    for side in SIDES:
        own = numbers[positions_of(space, side)].flatten()
        sizes[side] = GroupSums(len(sums[side]), own[:0]).add(torch.ones_like(own), own).total
    return ComparedGroups(
        student=sums["student"],
        teacher=sums["teacher"],
        student_sizes=sizes["student"],
        teacher_sizes=sizes["teacher"],
        measure=measure,
    )


def positions_of(space: GroupSpace, side: Side) -> Side:
    """Return at whose positions one side's numbers are made: its own, unless its states are projected."""
    return side if space.projector is None else space.side


def temperature_of(measure: Measure, side: Side) -> float:
    """Return what the logits of one side's states are divided by."""
    return measure.temperature if side == "student" else measure.teacher_temperature


def checked_values(space: GroupSpace, values: Any, rows: int) -> Tensor:
    """Return what a space gives for some rows, once it is known to be numbers of these.

    Args:
        space: for the message.
        values: what came.
        rows: how many rows there are.

    Raises:
        ConfigurationError: it is something else.
    """
    shape = getattr(values, "shape", None)
    if shape is None or len(shape) not in (1, 2) or shape[0] != rows:
        raise ConfigurationError(
            f"The space {space.name!r}: expected row_values(...) to return [{rows}] or [{rows}, C], a number or more "
            f"for each row, got {'no tensor' if shape is None else list(shape)}."
        )
    found: Tensor = values
    return found
