"""Faulty spaces: divergence in one vocabulary, with one thing wrong."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from dskd_components import ComparedRows, Space, SpaceResult, Tally, TokenTerm
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


@fault("logits are read without a word", "logits_are_not_read")
class ReadsLogits(FaultySpace):
    reads_logits: ClassVar[bool] = False

    def values(self, rows: ComparedRows) -> Tensor:
        return super().values(rows) + rows.student_logits.softmax(-1).square().sum(-1)


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


class DistanceSpace(FaultySpace):
    """One that claims its term to be a distance."""

    distance_terms: ClassVar[tuple[str, ...]] = ("mine",)


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    return (teacher.exp() * (teacher - student)).sum(-1).clamp_min(0)


@fault("the temperature is ignored", "temperatures_divide_logits")
class IgnoresTemperature(DistanceSpace):
    def values(self, rows: ComparedRows) -> Tensor:
        return rows.measure.scale * kl(rows.student_logits.log_softmax(-1), rows.teacher_logits.log_softmax(-1))


@fault("the student's temperature is used for both sides", "temperatures_divide_logits")
class OneTemperature(DistanceSpace):
    def values(self, rows: ComparedRows) -> Tensor:
        student, teacher = (
            (side / rows.measure.temperature).log_softmax(-1) for side in (rows.student_logits, rows.teacher_logits)
        )
        return rows.measure.scale * kl(student, teacher)


@fault("probabilities are divided by the temperature", "temperatures_divide_logits")
class TemperatureOfProbabilities(DistanceSpace):
    def values(self, rows: ComparedRows) -> Tensor:
        student, teacher = (
            side.log_softmax(-1).div(rows.measure.temperature).log_softmax(-1) / rows.measure.temperature
            for side in (rows.student_logits, rows.teacher_logits)
        )
        return rows.measure.scale * (student.exp() - teacher.exp()).square().sum(-1)


@fault("the scale is ignored", "the_scale_is_applied_once")
class IgnoresScale(DistanceSpace):
    def values(self, rows: ComparedRows) -> Tensor:
        return kl(*rows.log_probs)


@fault("the scale is applied twice", "the_scale_is_applied_once")
class ScalesTwice(DistanceSpace):
    def values(self, rows: ComparedRows) -> Tensor:
        return rows.measure.scale * rows.divergence(None)


class OfSharedTokens(DistanceSpace):
    """Two vocabularies."""

    @property
    def needs_shared_tokens(self) -> bool:
        return True

    def values(self, rows: ComparedRows) -> Tensor:
        student, teacher = self.shared(rows)
        return rows.measure.scale * (student.exp() - teacher.exp()).square().sum(-1)

    def shared(self, rows: ComparedRows) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


@fault("a renormalisation is missing", "zero_at_equality")
class NotRenormalised(OfSharedTokens):
    def shared(self, rows: ComparedRows) -> tuple[Tensor, Tensor]:
        assert rows.shared_tokens is not None
        student, teacher = rows.log_probs
        return student[:, rows.shared_tokens.student_ids], teacher[:, rows.shared_tokens.teacher_ids]


@fault("the ids of one side are reversed", "zero_at_equality")
class ReversedIds(OfSharedTokens):
    def shared(self, rows: ComparedRows) -> tuple[Tensor, Tensor]:
        assert rows.shared_tokens is not None
        student, teacher = rows.log_probs
        return (
            student[:, rows.shared_tokens.student_ids].log_softmax(-1),
            teacher[:, rows.shared_tokens.teacher_ids.flip(0)].log_softmax(-1),
        )


@fault("the ids of both sides are sorted apart", "token_numbers_do_not_matter")
class SortedIds(OfSharedTokens):
    def shared(self, rows: ComparedRows) -> tuple[Tensor, Tensor]:
        assert rows.shared_tokens is not None
        student, teacher = rows.log_probs
        ids = rows.shared_tokens
        return (
            student[:, ids.student_ids.sort().values].log_softmax(-1),
            teacher[:, ids.teacher_ids.sort().values].log_softmax(-1),
        )


@fault("a mean over the vocabulary", "tokens_that_cannot_occur_count_for_nothing")
class VocabularyMean(DistanceSpace):
    def values(self, rows: ComparedRows) -> Tensor:
        student, teacher = rows.log_probs
        return rows.measure.scale * (student.exp() - teacher.exp()).square().mean(-1)


@fault("the last token is left out", "token_numbers_do_not_matter")
class LeavesOutTheLast(DistanceSpace):
    def values(self, rows: ComparedRows) -> Tensor:
        student, teacher = rows.log_probs
        return rows.measure.scale * (student.exp() - teacher.exp())[:, :-1].square().sum(-1)


@fault("a metric is a mean already", "metrics_add_up_over_rows")
class MeanMetric(FaultySpace):
    def compare(self, rows: ComparedRows) -> SpaceResult:
        found = self.values(rows)
        mean = found.detach().sum() / max(len(found), 1)
        return SpaceResult(
            terms={"mine": TokenTerm(values=found)}, metrics={"mine": Tally(mean, torch.ones((), dtype=torch.int64))}
        )


@fault("an option does nothing", "options_have_an_effect")
class IdleOption(FaultySpace):
    weight: float = 1.0


@fault("a tensor is made on the default device", "everything_is_made_where_the_rows_are")
class Elsewhere(FaultySpace):
    def values(self, rows: ComparedRows) -> Tensor:
        return super().values(rows) * torch.ones(len(rows.targets))


@fault("it reads the teacher's choice without asking for it", "terms_are_one_finite_number_a_row")
class ReadsWhatItDidNotAskFor(FaultySpace):
    def values(self, rows: ComparedRows) -> Tensor:
        assert rows.teacher_argmax is not None
        return super().values(rows) * (rows.teacher_argmax >= 0)
