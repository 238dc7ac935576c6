"""`TokenGroups`: a correspondence between the positions of two models that is known beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dskd_components.errors import InputError
from dskd_components.models.head import describe
from dskd_components.models.states import IGNORE_INDEX

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True, eq=False)
class TokenGroups:
    """Positions of one row with the same number belong together: one to one, or several to several.

    A position stands for the token that it predicts, so that both sides of a group look ahead at the same text.

    Args:
        student: ``[B, Ts]``, int64: the group of each student position, any number but -100; -1 for none.
        teacher: ``[B, Tt]``, int64: the group of each teacher position, with the same numbers.

    Raises:
        InputError: a tensor has another shape or dtype.

    Examples:
        The second student position belongs to the second and third teacher positions:

        >>> groups = TokenGroups(torch.tensor([[0, 1]]), torch.tensor([[0, 1, 1]]))
        >>> TokenGroups.from_index(torch.tensor([[0, -1, 2]]), teacher_length=3).teacher
        tensor([[ 0, -1,  2]])
    """

    student: Tensor
    teacher: Tensor

    def __post_init__(self) -> None:
        for side, groups in (("student", self.student), ("teacher", self.teacher)):
            if groups.ndim != 2 or groups.dtype != torch.int64:
                raise InputError(
                    f"TokenGroups.{side}: expected an int64 tensor [batch, length], got {describe(groups)}."
                )

    @classmethod
    def from_index(cls, index: Tensor, teacher_length: int) -> Self:
        """Return the groups of a one-to-one correspondence.

        Args:
            index: ``[B, Ts]``, int64: the teacher position of each student position, -1 for none. Student positions
                with the same teacher position form one group with it.
            teacher_length: Tt.

        Raises:
            InputError: an entry is no position of the teacher's, or the tensor is of another shape or dtype.
        """
        groups = cls(index, index.new_full((len(index), teacher_length), -1))
        outside = (index >= teacher_length) | (index < -1)
        if outside.any():
            raise InputError(
                f"alignment: expected teacher positions from 0 to {teacher_length - 1}, or -1, got "
                f"{int(index[outside][0])}."
            )
        rows, columns = (index >= 0).nonzero(as_tuple=True)
        positions = index[rows, columns]
        groups.teacher[rows, positions] = positions
        return groups

    def with_small_numbers(self) -> Self:
        """Return the same groups with numbers from 0 to 2**31 - 1, as aligners are given them; -1 for none.

        Raises:
            InputError: a group is -100, which marks labels that are not scored.
        """
        sides = (self.student, self.teacher)
        if all(bool((side.amin() >= -1) & (side.amax() < 2**31)) for side in sides):
            return self
        if any((side == IGNORE_INDEX).any() for side in sides):
            raise InputError(f"alignment: a group is {IGNORE_INDEX}; positions without a group are marked by -1.")
        known = torch.unique(torch.cat([side.flatten() for side in sides]))
        student, teacher = (torch.searchsorted(known, side.contiguous()).where(side != -1, -1) for side in sides)
        return type(self)(student, teacher)
