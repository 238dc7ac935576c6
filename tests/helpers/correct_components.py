"""Components that are right, of kinds that a kit may wrongly reject: kinks, ties, parts that are zero, own sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dskd_components import (
    Alignment,
    ComparedGroups,
    ComparedRows,
    Distance,
    GroupRows,
    GroupSpace,
    InputError,
    LMStates,
    Projection,
    Projector,
    ProjectorHeads,
    Schedule,
    Space,
    SpaceResult,
    Tally,
    TextAligner,
    TokenGroups,
    TokenTerm,
)
from dskd_components.aligners import CrossModelAttention, Identity, Span
from dskd_components.aligners.cross_model_attention import CrossModelAttentionModule
from dskd_components.aligners.grouped import GroupedModule
from dskd_components.components import Affine
from dskd_components.tokenization import span_groups
from tests.helpers.whole_words import WholeWords

if TYPE_CHECKING:
    from dskd_components import TokenizedText
    from dskd_components.components import Direction
    from dskd_components.components.aligner import AlignerModule
    from dskd_components.models.states import Side
    from dskd_components.tokenization.arrays import IntArray

CORRECT: list[Any] = []


def correct(component: Any) -> Any:
    """A decorator that adds a function, or an instance of a class, to the list."""
    CORRECT.append(component() if isinstance(component, type) else component)
    return component


@correct
class SortedDifference(Distance):
    """Has kinks wherever two tokens are equally likely, on one side or on both."""

    zero_iff_equal: ClassVar[bool] = False

    name: Literal["sorted_difference"] = "sorted_difference"

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        student, teacher = student_log_probs.exp().sort(-1).values, teacher_log_probs.exp().sort(-1).values
        return (student - teacher).abs().sum(-1)


@correct
class TopTokens(Distance):
    """Compares the teacher's most likely tokens; all that are as likely as the last of them belong to them."""

    zero_iff_equal: ClassVar[bool] = False

    name: Literal["top_tokens"] = "top_tokens"
    count: Literal[1, 2, 3] = 2

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        count = min(self.count, teacher_log_probs.shape[-1])
        least = teacher_log_probs.topk(count, dim=-1).values[..., -1:]
        # Log-probabilities that are equal but for rounding are equal.
        top = teacher_log_probs >= least - 1e-5
        return ((student_log_probs.exp() - teacher_log_probs.exp()).square() * top).sum(-1)


@correct
def total_variation(student: Tensor, teacher: Tensor) -> Tensor:
    return 0.5 * (student.exp() - teacher.exp()).abs().sum(-1)


@correct
def squared_hellinger(student: Tensor, teacher: Tensor) -> Tensor:
    return 0.5 * ((0.5 * student).exp() - (0.5 * teacher).exp()).square().sum(-1)


@correct
def triangular(student: Tensor, teacher: Tensor) -> Tensor:
    p, q = student.exp(), teacher.exp()
    return ((p - q).square() / (p + q).clamp_min(1e-30)).sum(-1)


@correct
class MostLikelyGap(Distance):
    """How much less likely the teacher's first token is to the student; zero between many that differ."""

    zero_iff_equal: ClassVar[bool] = False

    name: Literal["most_likely_gap"] = "most_likely_gap"
    power: Literal[1, 2] = 1

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        gap = student_log_probs.exp().amax(-1) - teacher_log_probs.exp().amax(-1)
        return gap.abs() if self.power == 1 else gap.square()


class LinearMap(Projection):
    """A weight, which subclasses change."""

    def __init__(self, source_size: int, target_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(target_size, source_size))

    def mapped(self, hidden_states: Tensor, weight: Tensor) -> Tensor:
        return hidden_states @ weight.to(hidden_states.dtype).T


class ScaledMap(LinearMap):
    def __init__(self, source_size: int, target_size: int) -> None:
        super().__init__(source_size, target_size)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        return self.mapped(hidden_states, self.weight * self.log_scale.exp())

    def affine(self, heads: ProjectorHeads) -> Affine:
        return Affine(self.weight * self.log_scale.exp(), None)


@correct
class WithScalar(Projector):
    """Has a parameter without dimensions."""

    name: Literal["with_scalar"] = "with_scalar"

    def build(self, *, source_size: int, target_size: int, heads: ProjectorHeads | None) -> Projection:
        return ScaledMap(source_size, target_size)


class LowRankMap(LinearMap):
    def __init__(self, source_size: int, target_size: int, rank: int) -> None:
        super().__init__(source_size, target_size)
        self.weight.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, source_size))
        self.up = nn.Parameter(torch.zeros(target_size, rank))

    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        return self.mapped(hidden_states, self.weight + self.up @ self.down)

    def affine(self, heads: ProjectorHeads) -> Affine:
        return Affine(self.weight + self.up @ self.down, None)


@correct
class LowRank(Projector):
    """Begins with a part that is zero, so that one of its parameters has no gradient at first."""

    name: Literal["low_rank"] = "low_rank"
    rank: Literal[1, 2] = 1

    def build(self, *, source_size: int, target_size: int, heads: ProjectorHeads | None) -> Projection:
        return LowRankMap(source_size, target_size, self.rank)


class GatedMap(LinearMap):
    def __init__(self, source_size: int, target_size: int) -> None:
        super().__init__(source_size, target_size)
        self.gate = nn.Parameter(torch.zeros(1))
        self.other = nn.Parameter(torch.randn(target_size, source_size))

    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        gate = self.gate.to(hidden_states.dtype)
        return self.mapped(hidden_states, self.weight) + gate * self.mapped(hidden_states, self.other).tanh()


@correct
class Gated(Projector):
    """A second branch behind a gate that is closed at first."""

    name: Literal["gated"] = "gated"

    def build(self, *, source_size: int, target_size: int, heads: ProjectorHeads | None) -> Projection:
        return GatedMap(source_size, target_size)


class BlockMap(Projection):
    def __init__(self, size: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.Parameter(torch.randn(blocks, size // blocks, size // blocks))

    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        parts = hidden_states.unflatten(-1, self.blocks.shape[:2])
        return torch.einsum("...bi,bij->...bj", parts, self.blocks.to(parts.dtype)).flatten(-2)


@correct
class BlockDiagonal(Projector):
    """Is made for one width on both sides, a multiple of its blocks."""

    example_sizes: ClassVar[tuple[tuple[int, int], ...]] = ((4, 4), (8, 8))

    name: Literal["block_diagonal"] = "block_diagonal"
    blocks: Literal[2, 4] = 2

    def build(self, *, source_size: int, target_size: int, heads: ProjectorHeads | None) -> Projection:
        if source_size != target_size or source_size % self.blocks:
            raise InputError(f"expected one width, a multiple of {self.blocks}, got {source_size} and {target_size}.")
        return BlockMap(source_size, self.blocks)


class NormalisedMap(LinearMap):
    def __init__(self, source_size: int, target_size: int) -> None:
        super().__init__(source_size, target_size)
        self.gain = nn.Parameter(torch.ones(source_size))

    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        norm = hidden_states.square().mean(-1, keepdim=True).add(1e-6).sqrt()
        return self.mapped(hidden_states / norm * self.gain.to(hidden_states.dtype), self.weight)


@correct
class Normalised(Projector):
    """Divides by the norm of what comes in."""

    name: Literal["normalised"] = "normalised"

    def build(self, *, source_size: int, target_size: int, heads: ProjectorHeads | None) -> Projection:
        return NormalisedMap(source_size, target_size)


class HeadMap(LinearMap):
    def __init__(self, heads: ProjectorHeads) -> None:
        super().__init__(heads.source.hidden_size, heads.target.hidden_size)
        source, target = (side.detach().double() for side in heads.shared_weights())
        self.weight.data = (torch.linalg.pinv(target) @ source).to(heads.source.weight.dtype)

    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        return self.mapped(hidden_states, self.weight)


@correct
class FromHeads(Projector):
    """Is solved for from the rows of the shared tokens."""

    needs_heads: ClassVar[bool] = True

    name: Literal["from_heads"] = "from_heads"

    def build(self, *, source_size: int, target_size: int, heads: ProjectorHeads | None) -> Projection:
        return HeadMap(self.required(heads))


class ScaledModule(CrossModelAttentionModule):
    def __init__(self, student_size: int, teacher_size: int) -> None:
        super().__init__(student_size, teacher_size, "sample")
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:
        found = super().forward(student, teacher, given)
        gain = (1 + self.gate).to(found.teacher_values.dtype)
        return replace(found, teacher_values=found.teacher_values * gain)


@correct
class AttentionWithScalar(CrossModelAttention):
    """Has a parameter without dimensions that is zero at first."""

    name: Literal["attention_with_scalar"] = "attention_with_scalar"
    std: Literal["sample"] = "sample"

    def build(
        self, *, student_embedding_size: int, teacher_embedding_size: int, heads: ProjectorHeads | None = None
    ) -> AlignerModule:
        return ScaledModule(student_embedding_size, teacher_embedding_size)


@correct
class EvenWidths(CrossModelAttention):
    """Is made for widths that two attention heads can share."""

    example_sizes: ClassVar[tuple[tuple[int, int], ...]] = ((4, 6), (2, 4))

    name: Literal["even_widths"] = "even_widths"
    std: Literal["sample"] = "sample"

    def build(
        self, *, student_embedding_size: int, teacher_embedding_size: int, heads: ProjectorHeads | None = None
    ) -> AlignerModule:
        if student_embedding_size % 2 or teacher_embedding_size % 2:
            raise InputError("expected even widths.")
        return CrossModelAttentionModule(student_embedding_size, teacher_embedding_size, "sample")


class TermModule(GroupedModule):
    """Groups, and a likelihood of the student's states under a normal distribution that is learned."""

    def __init__(self, student_size: int) -> None:
        super().__init__("span", one_to_one=False, pooling="mean")
        self.log_variance = nn.Parameter(torch.zeros(student_size))

    def forward(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:
        found = super().forward(student, teacher, given)
        variance, squares = self.log_variance.to(student.hidden_states.dtype), student.hidden_states.square()
        # Unscored positions may hold anything, and are taken out before there is arithmetic.
        values = (squares[student.scored] * (-variance).exp() + variance).sum(-1)
        count = student.scored.sum()
        return replace(
            found,
            terms={"likelihood": TokenTerm(values=values)},
            metrics={"energy": Tally(values.detach().sum(), count)},
        )


@correct
class WithLikelihood(Span):
    """Has a term that may be negative, and says so."""

    terms: ClassVar[tuple[str, ...]] = ("likelihood",)
    non_negative_terms: ClassVar[bool] = False

    name: Literal["with_likelihood"] = "with_likelihood"
    pooling: Literal["mean"] = "mean"

    def build(
        self, *, student_embedding_size: int, teacher_embedding_size: int, heads: ProjectorHeads | None = None
    ) -> AlignerModule:
        return TermModule(student_embedding_size)


correct(WholeWords)


@correct
class ShortGroups(TextAligner):
    """Leaves out groups of many tokens."""

    name: Literal["short_groups"] = "short_groups"
    longest: Literal[1, 4, 64] = 64

    def groups_of_text(self, student: TokenizedText, teacher: TokenizedText) -> IntArray:
        groups = span_groups(student, teacher)
        return groups[groups[:, 1] - groups[:, 0] <= self.longest]


@correct
class Renamed(Identity):
    """One tokenizer."""

    name: Literal["renamed"] = "renamed"


@correct
class StrictSpace(Space):
    """Compares only rows whose right token is shared, so that many a batch has none."""

    side: ClassVar[Side] = "student"
    terms: ClassVar[tuple[str, ...]] = ("strict",)
    distance_terms: ClassVar[tuple[str, ...]] = ("strict",)

    name: Literal["strict"] = "strict"

    @property
    def needs_shared_tokens(self) -> bool:
        return True

    def compare(self, rows: ComparedRows) -> SpaceResult:
        ids = rows.shared_tokens
        assert ids is not None
        student, teacher = rows.log_probs
        student, teacher = student[:, ids.student_ids].log_softmax(-1), teacher[:, ids.teacher_ids].log_softmax(-1)
        shared = (rows.targets[:, None] == ids.student_ids).any(-1)
        values = rows.measure.scale * rows.measure.distance(student, teacher)
        return SpaceResult(terms={"strict": TokenTerm(values=values.where(shared, 0.0), keep=shared)})


@correct
class WithTheRest(Space):
    """Keeps the probability of all other tokens as one outcome more; equal shares of the shared ones are not enough."""

    side: ClassVar[Side] = "student"
    terms: ClassVar[tuple[str, ...]] = ("with_rest",)

    name: Literal["with_the_rest"] = "with_the_rest"

    @property
    def needs_shared_tokens(self) -> bool:
        return True

    def compare(self, rows: ComparedRows) -> SpaceResult:
        ids = rows.shared_tokens
        assert ids is not None
        student, teacher = (
            self.outcomes(side.exp(), own)
            for side, own in zip(rows.log_probs, (ids.student_ids, ids.teacher_ids), strict=True)
        )
        values = rows.measure.scale * (student - teacher).square().sum(-1)
        return SpaceResult(terms={"with_rest": TokenTerm(values=values)})

    @staticmethod
    def outcomes(probs: Tensor, ids: Tensor) -> Tensor:
        shared = probs[:, ids]
        return torch.cat([shared, (1 - shared.sum(-1, keepdim=True)).clamp_min(0)], -1)


@correct
class SortedSpace(Space):
    """Two distributions, sorted by size."""

    side: ClassVar[Side] = "student"
    terms: ClassVar[tuple[str, ...]] = ("sorted",)
    distance_terms: ClassVar[tuple[str, ...]] = ("sorted",)

    name: Literal["sorted"] = "sorted"
    squared: bool = False

    def compare(self, rows: ComparedRows) -> SpaceResult:
        student, teacher = (side.exp().sort(-1, descending=True).values for side in rows.log_probs)
        size = min(student.shape[-1], teacher.shape[-1])
        gap = student[:, :size] - teacher[:, :size]
        values = rows.measure.scale * (gap.square() if self.squared else gap.abs()).sum(-1)
        return SpaceResult(terms={"sorted": TokenTerm(values=values)})


@correct
class LabelsAlone(Space):
    """A cross entropy and a metric of the other side; no distance, so no temperature."""

    side: ClassVar[Side] = "student"
    terms: ClassVar[tuple[str, ...]] = ("labels",)

    name: Literal["labels_alone"] = "labels_alone"
    weight: float = 1.0

    def compare(self, rows: ComparedRows) -> SpaceResult:
        hits = rows.predicted("teacher") == rows.targets
        return SpaceResult(
            terms={"labels": TokenTerm(values=rows.cross_entropy("student", rows.targets), weight=abs(self.weight))},
            metrics={"labels_accuracy": Tally(hits.sum(), torch.ones_like(hits).sum())},
        )


@correct
class Triangle(Schedule):
    """Up and down again, so that what it ends with is neither the highest nor the lowest number."""

    name: Literal["triangle"] = "triangle"
    period: Annotated[int, Field(gt=1)] = 4
    periods: Literal[1, 2] = 2
    peak: Annotated[float, Field(gt=0)] = 0.1

    def at(self, step: int) -> float:
        within = min(step, self.final_step) % self.period / self.period
        return self.peak * (1 - abs(2 * within - 1)) + 0.25 * self.peak * (step >= self.final_step)

    @property
    def turning_points(self) -> tuple[float, ...]:
        return 0.0, self.peak

    @property
    def final_step(self) -> int:
        return self.period * self.periods


@correct
class Decay(Schedule):
    """By a share of what is left at each step, in arithmetic that rounds."""

    name: Literal["decay"] = "decay"
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    steps: Annotated[int, Field(ge=0)] = 1000

    def at(self, step: int) -> float:
        return 0.3 * float(np.float64(1 - self.share) ** min(step, self.steps)) + 0.7

    @property
    def turning_points(self) -> tuple[float, ...]:
        return self.at(0), self.at(self.steps)

    @property
    def final_step(self) -> int:
        return self.steps


@correct
class LearnedWeights(Distance):
    """A weight for each token and a scale, learned; and a constant that is kept in a buffer."""

    treats_tokens_alike: ClassVar[bool] = False

    name: Literal["learned_weights"] = "learned_weights"

    def build(self, *, tokens: Any, heads: Any) -> nn.Module:
        del heads
        return WeightsOfTokens(len(self.required(tokens)))


class WeightsOfTokens(nn.Module):
    factor: Tensor

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(tokens))
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("factor", torch.tensor(0.5))

    def forward(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        gap = (student_log_probs.exp() - teacher_log_probs.exp()).square()
        return self.factor * self.log_scale.exp() * (gap * self.logits.exp()).sum(-1)


@correct
class LearnedScale(Distance):
    """A scale that does not know the tokens, and a linear layer that would not stand another dtype."""

    name: Literal["learned_scale"] = "learned_scale"

    def build(self, *, tokens: Any, heads: Any) -> nn.Module:
        del tokens, heads
        return ScaleOfSquares()


class ScaleOfSquares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixed = nn.Linear(2, 1)

    def forward(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        gap = student_log_probs.exp() - teacher_log_probs.exp()
        both = torch.stack([gap.square().sum(-1), gap.pow(4).sum(-1)], -1)
        return nn.functional.linear(both, self.mixed.weight.exp()).squeeze(-1) * self.mixed.bias.exp()


@correct
class SpaceWithModule(Space):
    """Shared tokens of two vocabularies, a learned distance over them, and a temperature of its own that is learned."""

    side: ClassVar[Side] = "student"
    terms: ClassVar[tuple[str, ...]] = ("shared_kd",)
    treats_tokens_alike: ClassVar[bool] = False

    name: Literal["space_with_module"] = "space_with_module"
    inner: ClassVar[Distance] = LearnedWeights()

    def distances(self, default: Distance) -> tuple[Distance, ...]:
        del default
        return (self.inner,)

    @property
    def needs_shared_tokens(self) -> bool:
        return True

    def build(self, *, heads: ProjectorHeads | None) -> nn.Module:
        del heads
        return SharpenedSharedTokens(self.inner)


class SharpenedSharedTokens(nn.Module):
    def __init__(self, inner: Distance) -> None:
        super().__init__()
        self.inner = inner
        self.log_power = nn.Parameter(torch.zeros(1))

    def compare(self, rows: ComparedRows) -> SpaceResult:
        ids = rows.shared_tokens
        assert ids is not None
        power = self.log_power.exp()
        student, teacher = rows.log_probs
        student, teacher = student[:, ids.student_ids] * power, teacher[:, ids.teacher_ids] * power
        values = rows.function_of(self.inner)(student.log_softmax(-1), teacher.log_softmax(-1))
        return SpaceResult(terms={"shared_kd": TokenTerm(values=rows.measure.scale * values)})


@correct
class SpanLikelihood(GroupSpace):
    """Likelihoods of stretches of text, each under a model's own head."""

    terms: ClassVar[tuple[str, ...]] = ("spans",)
    distance_terms: ClassVar[tuple[str, ...]] = ("spans",)

    name: Literal["span_likelihood"] = "span_likelihood"
    denominator: Literal["scored", "kept"] = "kept"

    def row_values(self, rows: GroupRows) -> Tensor:
        return rows.target_log_probs()

    def combine(self, groups: ComparedGroups) -> SpaceResult:
        values = groups.measure.scale * (groups.student - groups.teacher).square()
        return SpaceResult(terms={self.terms[0]: TokenTerm(values=values, denominator=self.denominator)})


@correct
class ProjectedSpans(SpanLikelihood):
    """The same of the projected student in the teacher's space."""

    side: ClassVar[Side] = "teacher"
    projector: ClassVar[Direction | None] = "s2t"
    terms: ClassVar[tuple[str, ...]] = ("projected_spans",)
    distance_terms: ClassVar[tuple[str, ...]] = ("projected_spans",)

    name: Literal["projected_spans"] = "projected_spans"


@correct
class LearnedSpans(GroupSpace):
    """Two numbers a row in the student's space, weighted by what is learned; only large groups count."""

    projector: ClassVar[Direction | None] = "t2s"
    terms: ClassVar[tuple[str, ...]] = ("learned_spans",)

    name: Literal["learned_spans"] = "learned_spans"

    def row_values(self, rows: GroupRows) -> Tensor:
        return torch.stack([rows.target_log_probs(), rows.log_probs.exp().square().sum(-1)], -1)

    def build(self, *, heads: ProjectorHeads | None) -> nn.Module:
        del heads
        return WeightedSums()


class WeightedSums(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log_weights = nn.Parameter(torch.zeros(2))

    def combine(self, groups: ComparedGroups) -> SpaceResult:
        values = ((groups.student - groups.teacher).square() * self.log_weights.exp()).sum(-1)
        large = groups.student_sizes + groups.teacher_sizes > 2
        return SpaceResult(
            terms={"learned_spans": TokenTerm(values=values, keep=large)},
            metrics={"large": Tally(large.sum(), torch.ones_like(large).sum())},
        )
