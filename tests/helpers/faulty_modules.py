"""Faulty distances and spaces that build modules, and spaces that combine groups, with one thing wrong."""

from __future__ import annotations

import functools
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dskd_components import ComparedGroups, ComparedRows, Distance, GroupRows, GroupSpace, Space, SpaceResult, Tally
from dskd_components.components.terms import TokenTerm
from tests.helpers.fault import Fault, collected

if TYPE_CHECKING:
    from dskd_components.models.states import Side

MODULE_FAULTS: list[Fault] = []
fault = functools.partial(collected, MODULE_FAULTS)


class ScaledSquares(nn.Module):
    """A distance of squares, times a scale that is learned; subclasses change it."""

    def __init__(self, tokens: int = 0) -> None:
        super().__init__()
        del tokens
        self.log_scale = nn.Parameter(torch.zeros(()))

    def scale(self, values: Tensor) -> Tensor:
        return self.log_scale.exp() * values

    def forward(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        return self.scale((student_log_probs.exp() - teacher_log_probs.exp()).square().sum(-1))

    def compare(self, rows: ComparedRows) -> SpaceResult:
        student, teacher = rows.log_probs
        return SpaceResult(terms={"mine": TokenTerm(values=rows.measure.scale * self(student, teacher))})

    def combine(self, groups: ComparedGroups) -> SpaceResult:
        values = groups.measure.scale * self.scale((groups.student - groups.teacher).square())
        return SpaceResult(terms={"mine": TokenTerm(values=values)})


class Building(Distance):
    """Builds the module."""

    module: ClassVar[type[ScaledSquares]] = ScaledSquares

    name: Literal["building"] = "building"

    def build(self, *, tokens: Any, heads: Any) -> nn.Module:
        del heads
        return self.module(len(tokens))


class BuildingSpace(Space):
    """Builds the same."""

    side: ClassVar[Side] = "student"
    module: ClassVar[type[ScaledSquares]] = ScaledSquares

    name: Literal["building_space"] = "building_space"

    def build(self, *, heads: Any) -> nn.Module:
        del heads
        return self.module()


class LastCallsScale(ScaledSquares):
    """Keeps what it learns in a number of Python, which no checkpoint has."""

    def __init__(self, tokens: int = 0) -> None:
        super().__init__(tokens)
        self.start = float(torch.rand(()))

    def scale(self, values: Tensor) -> Tensor:
        return (1 + self.start) * super().scale(values)


class Idle(ScaledSquares):
    """Its scale is detached."""

    def scale(self, values: Tensor) -> Tensor:
        return self.log_scale.detach().exp() * values


class Averaging(ScaledSquares):
    """Divides by a running mean of what it has seen."""

    mean: Tensor

    def __init__(self, tokens: int = 0) -> None:
        super().__init__(tokens)
        self.register_buffer("mean", torch.ones(()))

    def scale(self, values: Tensor) -> Tensor:
        if len(values):
            # Assigned in place, so that it outlives the call.
            self.seen = getattr(self, "seen", 1.0) * 0.9 + 0.1 * float(values.detach().mean())
        return super().scale(values) / getattr(self, "seen", 1.0)


class ByPlace(ScaledSquares):
    """Weighs a row by its place among those that came with it."""

    def scale(self, values: Tensor) -> Tensor:
        return super().scale(values) / (1 + torch.arange(len(values), device=values.device))


@fault("a learned scale is detached", "every_parameter_learns")
class IdleDistance(Building):
    module: ClassVar[type[ScaledSquares]] = Idle


@fault("a random start is kept in no buffer", "a_checkpoint_restores_it")
class ForgetfulDistance(Building):
    module: ClassVar[type[ScaledSquares]] = LastCallsScale


@fault("a running mean counts calls", "a_call_changes_nothing_built")
class AveragingDistance(Building):
    module: ClassVar[type[ScaledSquares]] = Averaging


@fault("rows are weighted by their place in a tile", "both_engines_agree")
class ByPlaceDistance(Building):
    module: ClassVar[type[ScaledSquares]] = ByPlace


@fault("a learned scale may become negative", "non_negative")
class NegativeScale(Building):
    class Signed(ScaledSquares):
        def scale(self, values: Tensor) -> Tensor:
            return (1 + 3 * self.log_scale) * values

    module: ClassVar[type[ScaledSquares]] = Signed


@fault("weights of tokens are not declared", "token_numbers_do_not_matter")
class UndeclaredWeights(Building):
    class Weighted(ScaledSquares):
        def __init__(self, tokens: int = 0) -> None:
            super().__init__(tokens)
            self.weights = nn.Parameter(torch.zeros(tokens))

        def forward(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
            gap = (student_log_probs.exp() - teacher_log_probs.exp()).square() * self.weights.exp()
            return self.scale(gap.sum(-1))

    module: ClassVar[type[ScaledSquares]] = Weighted


@fault("a table is worked out once and kept", "it_holds_no_tensor")
class KeepsATable(Distance):
    name: Literal["keeps_a_table"] = "keeps_a_table"

    @cached_property
    def table(self) -> Tensor:
        return torch.ones(1)

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        return self.table * (student_log_probs.exp() - teacher_log_probs.exp()).square().sum(-1)


@fault("a learned scale is detached", "every_parameter_learns")
class IdleSpace(BuildingSpace):
    module: ClassVar[type[ScaledSquares]] = Idle


@fault("a random start is kept in no buffer", "a_checkpoint_restores_it")
class ForgetfulSpace(BuildingSpace):
    module: ClassVar[type[ScaledSquares]] = LastCallsScale


@fault("a running mean counts calls", "a_call_changes_nothing_built")
class AveragingSpace(BuildingSpace):
    module: ClassVar[type[ScaledSquares]] = Averaging


@fault("rows are weighted by their place in a tile", "both_engines_agree")
class ByPlaceSpace(BuildingSpace):
    module: ClassVar[type[ScaledSquares]] = ByPlace


class FaultyGroups(GroupSpace):
    """One term, ``mine``: squares of differences of log-likelihoods, changed by the subclass."""

    distance_terms: ClassVar[tuple[str, ...]] = ("mine",)

    name: Literal["faulty_groups"] = "faulty_groups"

    def row_values(self, rows: GroupRows) -> Tensor:
        return rows.target_log_probs()

    def combine(self, groups: ComparedGroups) -> SpaceResult:
        return SpaceResult(terms={"mine": TokenTerm(values=groups.measure.scale * self.values(groups))})

    def values(self, groups: ComparedGroups) -> Tensor:
        return (groups.student - groups.teacher).square()


@fault("rows are centred among those that came with them", "row_values_are_independent")
class CentredRows(FaultyGroups):
    def row_values(self, rows: GroupRows) -> Tensor:
        found = rows.target_log_probs()
        return found - found.mean() if len(found) else found


@fault("the temperature of rows is ignored", "temperatures_divide_logits_of_rows")
class ColdRows(FaultyGroups):
    def row_values(self, rows: GroupRows) -> Tensor:
        return rows.logits.log_softmax(-1).gather(1, rows.targets[:, None]).squeeze(1)


@fault("the sign of a group's value is that of the difference", "group_terms_are_one_finite_number_a_group")
class SignedGroups(FaultyGroups):
    def values(self, groups: ComparedGroups) -> Tensor:
        return groups.student - groups.teacher


@fault("groups are compared with the largest", "groups_are_independent")
class AmongOthers(FaultyGroups):
    def values(self, groups: ComparedGroups) -> Tensor:
        return super().values(groups) / groups.student_sizes.amax() if len(groups.student_sizes) else groups.student


@fault("means are compared, by the sizes of the wrong side", "zero_where_both_sides_add_up_to_the_same")
class WrongSizes(FaultyGroups):
    def values(self, groups: ComparedGroups) -> Tensor:
        return (groups.student / (groups.teacher_sizes + 1) - groups.teacher / groups.teacher_sizes).square()


@fault("the scale of groups is left out", "the_scale_of_groups_is_applied_once")
class UnscaledGroups(FaultyGroups):
    def combine(self, groups: ComparedGroups) -> SpaceResult:
        return SpaceResult(terms={"mine": TokenTerm(values=self.values(groups))})


@fault("a group's value depends on where it is in the batch", "the_layout_of_a_batch_changes_no_group")
class ByPlaceInTheBatch(FaultyGroups):
    def values(self, groups: ComparedGroups) -> Tensor:
        return super().values(groups) * (1 + torch.arange(len(groups.student), device=groups.student.device))


@fault("the sums are clamped in place", "sums_and_logits_are_not_changed")
class ClampedInPlace(FaultyGroups):
    def values(self, groups: ComparedGroups) -> Tensor:
        with torch.no_grad():
            groups.teacher.clamp_(min=-1.0)
        return super().values(groups)


@fault("an option of groups does nothing", "options_of_groups_have_an_effect")
class IdleOptionOfGroups(FaultyGroups):
    power: float = 1.0


@fault("a metric of groups is a mean already", "groups_are_independent")
class MeanOfGroups(FaultyGroups):
    def combine(self, groups: ComparedGroups) -> SpaceResult:
        mean = groups.student.detach().sum() / max(len(groups.student), 1)
        one = torch.ones((), dtype=torch.int64)
        return SpaceResult(terms=super().combine(groups).terms, metrics={"mine": Tally(mean, one)})


@fault("groups are coupled in the gradient", "both_engines_agree")
class CoupledRows(FaultyGroups):
    def row_values(self, rows: GroupRows) -> Tensor:
        found = rows.target_log_probs()
        return found / (1 + len(found))
