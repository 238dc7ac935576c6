"""Faulty aligners: built-in ones with one thing changed in what they are given or what they give."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from dskd_components import Alignment, LMStates, ProjectorHeads, Tally, TokenGroups, TokenTerm
from dskd_components.aligners import CrossModelAttention, Identity, Span
from dskd_components.aligners.cross_model_attention import AttentionAlignment, CrossModelAttentionModule
from dskd_components.aligners.grouped import GroupedAlignment, GroupedModule
from dskd_components.aligners.identity import IdentityAlignment, IdentityModule
from tests.helpers.fault import Fault, collected

if TYPE_CHECKING:
    from dskd_components.components.aligner import AlignerModule

ALIGNER_FAULTS: list[Fault] = []
fault = functools.partial(collected, ALIGNER_FAULTS)


class SpanModule(GroupedModule):
    """Groups, with what is given and what is found changed on the way."""

    def __init__(self, aligner: ChangedSpan) -> None:
        super().__init__("span", one_to_one=False, pooling=aligner.pooling)
        self.aligner = [aligner]

    def forward(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:
        assert given is not None
        [aligner] = self.aligner
        student, teacher, given = aligner.given(student, teacher, given)
        found = super().forward(student, teacher, given)
        assert isinstance(found, GroupedAlignment)
        return aligner.found(found, student, teacher)


class ChangedSpan(Span):
    name: Literal["changed_span"] = "changed_span"

    def build(
        self, *, student_embedding_size: int, teacher_embedding_size: int, heads: ProjectorHeads | None = None
    ) -> AlignerModule:
        return SpanModule(self)

    def given(self, student: LMStates, teacher: LMStates, given: TokenGroups) -> tuple[LMStates, LMStates, TokenGroups]:
        return student, teacher, given

    def found(self, found: GroupedAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        return found


@fault("off by one position", "groups_are_followed")
class OffByOne(ChangedSpan):
    name: Literal["off_by_one"] = "off_by_one"

    def given(self, student: LMStates, teacher: LMStates, given: TokenGroups) -> tuple[LMStates, LMStates, TokenGroups]:
        return student, teacher, TokenGroups(given.student, given.teacher.roll(1, 1))


@fault("pairs cross", "pairs_do_not_cross")
class Crossing(ChangedSpan):
    name: Literal["crossing"] = "crossing"

    def given(self, student: LMStates, teacher: LMStates, given: TokenGroups) -> tuple[LMStates, LMStates, TokenGroups]:
        backwards = torch.where(given.teacher >= 0, given.teacher.amax() - given.teacher, -1)
        return student, teacher, TokenGroups(given.student, backwards)


@fault("nobody is covered", "pairs_of_single_positions_are_covered")
class CoversNobody(ChangedSpan):
    name: Literal["covers_nobody"] = "covers_nobody"

    def given(self, student: LMStates, teacher: LMStates, given: TokenGroups) -> tuple[LMStates, LMStates, TokenGroups]:
        return student, teacher, TokenGroups(torch.full_like(given.student, -1), given.teacher)


@fault("unscored positions are covered", "only_scored_positions_are_covered")
class CoversPadding(ChangedSpan):
    name: Literal["covers_padding"] = "covers_padding"

    def found(self, found: GroupedAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        return replace(found, student_covered=torch.ones_like(found.student_covered))


@fault("coverage is a number", "only_scored_positions_are_covered")
class CountedCoverage(ChangedSpan):
    name: Literal["counted_coverage"] = "counted_coverage"

    def found(self, found: GroupedAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        return replace(found, student_covered=found.student_covered.long())


class Squared(GroupedAlignment):
    def to_student(self, teacher_side: Tensor) -> Tensor:
        return super().to_student(teacher_side).square()


@fault("what is brought over is squared", "bringing_over_is_linear")
class NotLinear(ChangedSpan):
    name: Literal["not_linear"] = "not_linear"

    def found(self, found: GroupedAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        return Squared(**vars(found))


class Summed(GroupedAlignment):
    def _pool(self, values: Tensor, group: Tensor) -> Tensor:
        member = group >= 0
        sums = values.new_zeros(self.groups, values.shape[-1])
        return sums.index_add(0, group[member], values[member])


@fault("groups are summed, not averaged", "a_constant_is_brought_over_unchanged")
class NotAveraged(ChangedSpan):
    name: Literal["not_averaged"] = "not_averaged"

    def found(self, found: GroupedAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        return Summed(**vars(found))


class Widening(GroupedAlignment):
    def to_student(self, teacher_side: Tensor) -> Tensor:
        return super().to_student(teacher_side.double())


@fault("everything becomes float64", "the_dtype_is_kept")
class Widened(ChangedSpan):
    name: Literal["widened"] = "widened"

    def found(self, found: GroupedAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        return Widening(**vars(found))


@fault("the values lack a column", "values_fit_the_states")
class NarrowValues(ChangedSpan):
    name: Literal["narrow_values"] = "narrow_values"

    def found(self, found: GroupedAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        return replace(found, teacher_values=found.teacher_values[..., 1:])


@fault("a term is a sum already", "terms_are_finite_numbers")
class ReducedTerm(ChangedSpan):
    name: Literal["reduced_term"] = "reduced_term"

    def found(self, found: GroupedAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        return replace(found, terms={"mine": TokenTerm(values=student.hidden_states[student.scored].square().sum())})


@fault("the hidden states are scaled in place", "arguments_are_not_changed")
class InPlace(ChangedSpan):
    name: Literal["in_place"] = "in_place"

    def found(self, found: GroupedAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        teacher.hidden_states.mul_(2)
        return found


@fault("noise", "the_same_seed_gives_the_same_alignment")
class Noisy(ChangedSpan):
    name: Literal["noisy"] = "noisy"

    def found(self, found: GroupedAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        return replace(found, teacher_values=found.teacher_values + torch.randn_like(found.teacher_values))


@fault("packed rows are read as one sample", "packed_rows_equal_separate_samples")
class IgnoresSegments(ChangedSpan):
    name: Literal["ignores_segments"] = "ignores_segments"

    def given(self, student: LMStates, teacher: LMStates, given: TokenGroups) -> tuple[LMStates, LMStates, TokenGroups]:
        return replace(student, segment_ids=None), replace(teacher, segment_ids=None), given


@fault("padding is averaged in", "padding_changes_nothing")
class AveragesPadding(ChangedSpan):
    name: Literal["averages_padding"] = "averages_padding"

    def found(self, found: GroupedAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        return replace(found, teacher_values=found.teacher_values / teacher.targets.shape[1])


@fault("positions that are not scored are averaged in", "unscored_positions_do_not_matter")
class ReadsUnscored(ChangedSpan):
    name: Literal["reads_unscored"] = "reads_unscored"

    def found(self, found: GroupedAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        return replace(found, teacher_values=found.teacher_values - teacher.hidden_states.mean(1, keepdim=True))


class NextPosition(IdentityAlignment):
    def to_student(self, teacher_side: Tensor) -> Tensor:
        return teacher_side.roll(1, 1)


class NextPositionModule(IdentityModule):
    def forward(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:
        return NextPosition(**vars(super().forward(student, teacher, given)))


@fault("one tokenizer, and the next position", "positions_belong_to_themselves")
class NextOne(Identity):
    name: Literal["next_one"] = "next_one"

    def build(
        self, *, student_embedding_size: int, teacher_embedding_size: int, heads: ProjectorHeads | None = None
    ) -> AlignerModule:
        return NextPositionModule()


class AttentionModule(CrossModelAttentionModule):
    """Cross-model attention, with what it finds changed on the way."""

    def __init__(self, aligner: ChangedAttention, student_size: int, teacher_size: int) -> None:
        super().__init__(student_size, teacher_size, "sample")
        self.aligner = [aligner]

    def forward(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:
        [aligner] = self.aligner
        found = super().forward(student, teacher, given)
        assert isinstance(found, AttentionAlignment)
        return aligner.found(found, student, teacher)


class ChangedAttention(CrossModelAttention):
    name: Literal["changed_attention"] = "changed_attention"
    std: Literal["sample"] = "sample"

    def build(
        self, *, student_embedding_size: int, teacher_embedding_size: int, heads: ProjectorHeads | None = None
    ) -> AlignerModule:
        return AttentionModule(self, student_embedding_size, teacher_embedding_size)

    def found(self, found: AttentionAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        return found


@fault("attention over padding", "a_constant_is_brought_over_unchanged")
class AttendsToPadding(ChangedAttention):
    name: Literal["attends_to_padding"] = "attends_to_padding"

    def found(self, found: AttentionAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        spread = torch.full_like(found.student_to_teacher, 1 / teacher.targets.shape[1])
        return replace(found, student_to_teacher=spread)


@fault("attention over the neighbours in the row", "weights_stay_within_the_sample")
class AttendsToNeighbours(ChangedAttention):
    name: Literal["attends_to_neighbours"] = "attends_to_neighbours"

    def found(self, found: AttentionAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        scored = teacher.scored.to(found.student_to_teacher.dtype)
        spread = scored / scored.sum(1, keepdim=True).clamp_min(1)
        return replace(found, student_to_teacher=spread[:, None, :].expand_as(found.student_to_teacher))


class FirstPosition(AttentionAlignment):
    def teacher_index(self) -> Tensor:
        return torch.zeros_like(self.student_covered, dtype=torch.int64).where(self.student_covered, -1)


@fault("the index points at the row's first position", "the_index_stays_within_the_sample")
class PointsAtTheFirst(ChangedAttention):
    name: Literal["points_at_the_first"] = "points_at_the_first"

    def found(self, found: AttentionAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        return FirstPosition(**vars(found))


@fault("the whole batch is in a standard deviation", "samples_know_nothing_of_one_another")
class BatchStatistics(CrossModelAttention):
    split_invariant: ClassVar[bool] = True

    name: Literal["batch_statistics"] = "batch_statistics"
    std: Literal["sample", "batch"] = "batch"


@fault("the weights are detached", "every_parameter_learns")
class DetachedWeights(ChangedAttention):
    name: Literal["detached_weights"] = "detached_weights"

    def found(self, found: AttentionAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        return replace(
            found,
            student_to_teacher=found.student_to_teacher.detach(),
            teacher_to_student=found.teacher_to_student.detach(),
        )


@fault("a root of weights that may be zero", "finite_gradients")
class RootOfWeights(ChangedAttention):
    name: Literal["root_of_weights"] = "root_of_weights"

    def found(self, found: AttentionAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        root = found.student_to_teacher.sqrt()
        return replace(found, student_to_teacher=root / root.sum(-1, keepdim=True).clamp_min(1e-9))


class UncastModule(CrossModelAttentionModule):
    def __init__(self, student_size: int, teacher_size: int) -> None:
        super().__init__(student_size, teacher_size, "sample")

    def queries(self, student: LMStates) -> Tensor:
        assert student.input_ids is not None
        read, predicted = student.embedded(student.input_ids, "student"), student.embedded(student.targets, "student")
        return self.query(torch.cat([read, predicted], -1))


@fault("parameters are used in the dtype that they have", "parameters_of_another_dtype_will_do")
class Uncast(CrossModelAttention):
    name: Literal["uncast"] = "uncast"
    std: Literal["sample"] = "sample"

    def build(
        self, *, student_embedding_size: int, teacher_embedding_size: int, heads: ProjectorHeads | None = None
    ) -> AlignerModule:
        return UncastModule(student_embedding_size, teacher_embedding_size)


@fault("a tensor is made on the default device", "everything_is_made_where_the_states_are")
class Elsewhere(ChangedAttention):
    name: Literal["elsewhere"] = "elsewhere"

    def found(self, found: AttentionAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        return replace(found, teacher_values=found.teacher_values * torch.ones(found.teacher_values.shape[-1]))


class ForgetfulModule(CrossModelAttentionModule):
    """Scales by numbers that are drawn when it is built, and are in no checkpoint."""

    def __init__(self, student_size: int, teacher_size: int) -> None:
        super().__init__(student_size, teacher_size, "sample")
        self.scale = float(nn.init.uniform_(torch.empty(())))

    def forward(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:
        found = super().forward(student, teacher, given)
        return replace(found, teacher_values=found.teacher_values * self.scale)


@fault("state that is in no checkpoint", "a_checkpoint_restores_it")
class Forgetful(CrossModelAttention):
    name: Literal["forgetful"] = "forgetful"
    std: Literal["sample"] = "sample"

    def build(
        self, *, student_embedding_size: int, teacher_embedding_size: int, heads: ProjectorHeads | None = None
    ) -> AlignerModule:
        return ForgetfulModule(student_embedding_size, teacher_embedding_size)


class WithTerm(ChangedSpan):
    """A span aligner with a term, ``mine``, whose values the subclass gives."""

    terms: ClassVar[tuple[str, ...]] = ("mine",)

    name: Literal["with_term"] = "with_term"

    def found(self, found: GroupedAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        return replace(found, terms={"mine": TokenTerm(values=self.values(student, teacher))})

    def values(self, student: LMStates, teacher: LMStates) -> Tensor:
        raise NotImplementedError


@fault("a term is negative", "terms_are_finite_numbers")
class NegativeTerm(WithTerm):
    def values(self, student: LMStates, teacher: LMStates) -> Tensor:
        return student.hidden_states[student.scored].sum(-1)


@fault("a term is divided by the batch", "samples_know_nothing_of_one_another")
class DividedTerm(WithTerm):
    def values(self, student: LMStates, teacher: LMStates) -> Tensor:
        return student.hidden_states[student.scored].square().sum(-1) / student.scored.sum().clamp_min(1)


@fault("a term counts each row of a batch once", "packed_rows_equal_separate_samples")
class TermOfRows(WithTerm):
    def values(self, student: LMStates, teacher: LMStates) -> Tensor:
        squares = student.hidden_states.square().sum(-1).masked_fill(~student.scored, 0.0)
        return squares.sum(-1) / student.scored.sum(-1).clamp_min(1)


@fault("a term is detached", "every_term_teaches")
class DetachedTerm(WithTerm):
    def values(self, student: LMStates, teacher: LMStates) -> Tensor:
        return student.hidden_states[student.scored].square().sum(-1).detach()


@fault("a metric is a mean already", "samples_know_nothing_of_one_another")
class MeanMetric(ChangedSpan):
    name: Literal["mean_metric"] = "mean_metric"

    def found(self, found: GroupedAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        share = found.student_covered.sum() / student.scored.sum().clamp_min(1)
        return replace(found, metrics={"share": Tally(share, torch.ones((), dtype=torch.int64))})


@fault("an option does nothing", "options_have_an_effect")
class IdleOption(Span):
    name: Literal["idle_option"] = "idle_option"
    sharpness: float = 1.0


class GatedModule(CrossModelAttentionModule):
    """Adds what the whole batch is like, through a gate that is closed at first."""

    def __init__(self, student_size: int, teacher_size: int) -> None:
        super().__init__(student_size, teacher_size, "sample")
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:
        found = super().forward(student, teacher, given)
        of_batch = found.teacher_values[teacher.scored].sum(0)
        return replace(found, teacher_values=found.teacher_values + self.gate * of_batch)


@fault("a gate that is closed at first opens to the other samples", "samples_know_nothing_of_one_another")
class Gated(CrossModelAttention):
    name: Literal["gated"] = "gated"
    std: Literal["sample"] = "sample"

    def build(
        self, *, student_embedding_size: int, teacher_embedding_size: int, heads: ProjectorHeads | None = None
    ) -> AlignerModule:
        return GatedModule(student_embedding_size, teacher_embedding_size)


class RootedModule(CrossModelAttentionModule):
    """Scales by the norm of a parameter that is zero at first."""

    def __init__(self, student_size: int, teacher_size: int) -> None:
        super().__init__(student_size, teacher_size, "sample")
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:
        found = super().forward(student, teacher, given)
        return replace(found, teacher_values=found.teacher_values * (1 + self.shift.square().sum().sqrt()))


@fault("the root of a parameter that is zero at first", "finite_gradients")
class Rooted(CrossModelAttention):
    name: Literal["rooted"] = "rooted"
    std: Literal["sample"] = "sample"

    def build(
        self, *, student_embedding_size: int, teacher_embedding_size: int, heads: ProjectorHeads | None = None
    ) -> AlignerModule:
        return RootedModule(student_embedding_size, teacher_embedding_size)


class Transposed(AttentionAlignment):
    def to_teacher(self, student_side: Tensor) -> Tensor:
        return self.student_to_teacher.transpose(1, 2).to(student_side.dtype) @ student_side.masked_fill(
            ~self.student_covered[..., None], 0.0
        )


@fault("the way back is the way there, transposed", "a_constant_is_brought_over_unchanged")
class WayBack(ChangedAttention):
    name: Literal["way_back"] = "way_back"

    def found(self, found: AttentionAlignment, student: LMStates, teacher: LMStates) -> Alignment:
        return Transposed(**vars(found))
