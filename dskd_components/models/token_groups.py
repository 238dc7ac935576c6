"""`TokenGroups`: a correspondence between the positions of two models that is known beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dskd_components.errors import InputError
from dskd_components.models.head import describe
from dskd_components.models.host_reads import Check, require
from dskd_components.models.row_layout import following_tokens
from dskd_components.models.states import IGNORE_INDEX, small_numbers

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
        groups, check = cls.of_index(index, teacher_length)
        require(check)
        return groups

    @classmethod
    def of_index(cls, index: Tensor, teacher_length: int) -> tuple[Self, Check]:
        """Return what `from_index` does, with the check of its entries to be read later.

        Args:
            index: as there.
            teacher_length: as there.

        Raises:
            InputError: the tensor is of another shape or dtype.
        """
        groups = cls(index, index.new_full((len(index), teacher_length), -1))
        outside = (index >= teacher_length) | (index < -1)

        def complain() -> None:
            raise InputError(
                f"alignment: expected teacher positions from 0 to {teacher_length - 1}, or -1, got "
                f"{int(index[outside][0])}."
            )

        named = index.where(~outside, -1)
        if teacher_length:
            groups.teacher.scatter_reduce_(1, named.clamp_min(0), named, "amax")
        return groups, Check(outside.any(), complain)

    @property
    def check(self) -> Check:
        """The check that no group is -100, which marks labels that are not scored."""

        def complain() -> None:
            raise InputError(f"alignment: a group is {IGNORE_INDEX}; positions without a group are marked by -1.")

        sides = (self.student, self.teacher)
        return Check(torch.stack([(side == IGNORE_INDEX).any() for side in sides]).any(), complain)

    def shifted(
        self, *, student_attention_mask: Tensor | None = None, teacher_attention_mask: Tensor | None = None
    ) -> Self:
        """Return groups of tokens as groups of positions: each position has that of the token which it predicts.

        So a collator's columns ``student_groups`` and ``teacher_groups``, which are by token as labels are, become what
        a loss takes as ``alignment``. The last token of a row predicts nothing.

        Args:
            student_attention_mask: ``[B, Ts]``, 0 at padding, which neither predicts nor is predicted. None: the rows
                are not padded, or on the right alone.
            teacher_attention_mask: ``[B, Tt]``, likewise.

        Examples:
            >>> groups = TokenGroups(torch.tensor([[-1, 0, 1]]), torch.tensor([[0, 1, 1]])).shifted()
            >>> groups.student, groups.teacher
            (tensor([[ 0,  1, -1]]), tensor([[ 1,  1, -1]]))
        """
        sides = ((self.student, student_attention_mask), (self.teacher, teacher_attention_mask))
        return type(self)(*(following_tokens(groups, mask).shifted(groups, -1) for groups, mask in sides))

    def with_small_numbers(self) -> Self:
        """Return the same groups with numbers from 0 to 2**31 - 1, as aligners are given them; -1 for none."""
        sides = (self.student, self.teacher)
        student, teacher = (
            small.where(side != -1, -1) for small, side in zip(small_numbers(*sides), sides, strict=True)
        )
        return type(self)(student, teacher)
