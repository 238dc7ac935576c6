"""Faulty spaces: divergence in one vocabulary, with one thing wrong."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from dskd_components import ComparedRows, Space, SpaceResult, TokenTerm
from tests.helpers.fault import Fault, collected

if TYPE_CHECKING:
    from dskd_components.models.states import Side

SPACE_FAULTS: list[Fault] = []
fault = functools.partial(collected, SPACE_FAULTS)


class FaultySpace(Space):
    """One term, ``mine``: the divergence, changed by the subclass."""

    side: ClassVar[Side] = "student"
    term: ClassVar[str] = "mine"

    name: Literal["faulty"] = "faulty"

    def compare(self, rows: ComparedRows) -> SpaceResult:
        return SpaceResult(terms={self.term: TokenTerm(values=self.values(rows))})

    def values(self, rows: ComparedRows) -> Tensor:
        return rows.divergence(None)


@fault("rows are coupled", "rows_are_independent")
class Coupled(FaultySpace):
    def values(self, rows: ComparedRows) -> Tensor:
        found = super().values(rows)
        return found / (1 + found.sum())


@fault("rows are chosen by the batch", "rows_are_independent")
class ChosenByTheBatch(FaultySpace):
    def compare(self, rows: ComparedRows) -> SpaceResult:
        found = self.values(rows)
        keep = found >= found.median() if len(found) else torch.zeros(0, dtype=torch.bool)
        return SpaceResult(terms={"mine": TokenTerm(values=found, keep=keep)})


@fault("the term is a mean already", "terms_are_one_finite_number_a_row")
class Reduced(FaultySpace):
    def values(self, rows: ComparedRows) -> Tensor:
        return super().values(rows).mean()


@fault("the term takes the name of the cross entropy", "terms_are_one_finite_number_a_row")
class TakenName(FaultySpace):
    term: ClassVar[str] = "ce"


@fault("the term has another name than it declares", "terms_are_one_finite_number_a_row")
class OtherName(FaultySpace):
    terms: ClassVar[tuple[str, ...]] = ("min",)


@fault("the sign is wrong", "terms_are_one_finite_number_a_row")
class Negative(FaultySpace):
    def values(self, rows: ComparedRows) -> Tensor:
        return -super().values(rows)


@fault("no rows are too few", "no_rows_no_values")
class NeedsRows(FaultySpace):
    def values(self, rows: ComparedRows) -> Tensor:
        return super().values(rows) * (1 + 0 * rows.student_logits.detach().abs().max())


@fault("the root of zero", "finite_gradients")
class RootOfZero(FaultySpace):
    def values(self, rows: ComparedRows) -> Tensor:
        return (rows.student_logits.softmax(-1) - rows.teacher_logits.softmax(-1)).square().sum(-1).sqrt()


@fault("everything is detached", "a_gradient_reaches_a_model")
class Detached(FaultySpace):
    def values(self, rows: ComparedRows) -> Tensor:
        return super().values(rows).detach()


@fault("logits are scaled in place", "rows_are_not_changed")
class InPlace(FaultySpace):
    def values(self, rows: ComparedRows) -> Tensor:
        with torch.no_grad():
            rows.teacher_logits.mul_(0.5)
        return super().values(rows)


@fault("noise", "the_same_rows_give_the_same_terms")
class Noisy(FaultySpace):
    def values(self, rows: ComparedRows) -> Tensor:
        found = super().values(rows)
        return found + torch.rand_like(found)


@fault("the student is detached", "the_student_learns_in_the_loss")
class StudentDetached(FaultySpace):
    def values(self, rows: ComparedRows) -> Tensor:
        student, teacher = rows.student_logits.detach().softmax(-1), rows.teacher_logits.softmax(-1)
        return (student - teacher).square().sum(-1)
