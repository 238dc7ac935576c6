"""`Space`: where two distributions meet, and what is asked of them there."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch.nn import functional as F

from dskd_components.components.column_reader import ColumnReader
from dskd_components.components.component import forget_outdated, stay_abstract
from dskd_components.components.distance import Distance, checked_call
from dskd_components.components.vocabulary import ComparedTokens
from dskd_components.errors import ConfigurationError
from dskd_components.models.states import Side

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from torch import Tensor, nn

    from dskd_components.components.projector import ProjectorHeads
    from dskd_components.components.terms import Tally, TokenTerm


@dataclass(frozen=True, eq=False, kw_only=True)
class SharedTokens:
    """The tokens that both models have, each once: the k-th of one side is the k-th of the other.

    Args:
        student_ids: ``[K]``, int64: their ids in the student's vocabulary.
        teacher_ids: ``[K]``, int64: their ids in the teacher's.
    """

    student_ids: Tensor
    teacher_ids: Tensor

    @classmethod
    def one_to_one(cls, student_ids: Tensor, teacher_ids: Tensor) -> Self:
        """Return the pairs that are left when each of the student's tokens keeps the first of its partners.

        Two tokens of a vocabulary may stand for the same bytes (a byte token and an ordinary one), so a map from the
        teacher's tokens to the student's may meet a token of the student twice.

        Args:
            student_ids: ``[M]``, int64.
            teacher_ids: ``[M]``, int64, different from one another.

        Examples:
            >>> import torch
            >>> SharedTokens.one_to_one(torch.tensor([5, 3, 5]), torch.tensor([0, 1, 2])).teacher_ids
            tensor([1, 0])
        """
        kept, of_pair = torch.unique(student_ids, return_inverse=True)
        pairs = torch.arange(len(student_ids), device=student_ids.device)
        first = torch.full_like(kept, len(pairs)).scatter_reduce(0, of_pair, pairs, "amin")
        return cls(student_ids=kept, teacher_ids=teacher_ids[first])


def token_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy of each row, in nats; 0 where the target is -100.

    Args:
        logits: ``[N, V]``, float32 or float64; entries of ``-inf`` are tokens that cannot occur.
        targets: ``[N]``, int64.

    Returns:
        ``[N]``, same dtype as the logits.

    Examples:
        >>> import torch
        >>> token_cross_entropy(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([1, -100]))
        tensor([0.6931, 0.0000])
    """
    return F.cross_entropy(logits, targets, reduction="none", ignore_index=-100)


Direction = Literal["t2s", "s2t"]
"""Of a projection: from the teacher's space to the student's, or back."""

DistanceFunction = Callable[["Tensor", "Tensor"], "Tensor"]
"""Maps log-probabilities ``[N, V]`` of student and teacher to distances ``[N]``."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Measure:
    """How a spec measures two distributions.

    Args:
        distance: the spec's distance, for spaces that do not name one.
        temperature: what the student's logits are divided by.
        teacher_temperature: what the teacher's logits are divided by.
        scale: what a distance is multiplied with (the square of the temperature, if so asked).
    """

    distance: Distance
    temperature: float = 1.0
    teacher_temperature: float = 1.0
    scale: float = 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class ComparedRows:
    """The positions at which a space compares, one a row; rows know nothing of one another.

    They may be all of a batch or a few of it. A space asks for `divergence`, `cross_entropy` and `predicted`, which
    an engine computes as it knows best; for anything else it may use the logits themselves, through autograd.

    Args:
        student_logits: ``[N, Vs]``, float32: what comes from the student's hidden states.
        teacher_logits: ``[N, Vt]``, float32: what comes from the teacher's hidden states. The two vocabularies are one,
            unless nothing is projected and the models have different ones.
        targets: ``[N]``, int64: the token that is right at each row, in the vocabulary of the space's own side.
        teacher_argmax: ``[N]``, int64, or None: the teacher's own most likely token in the student's vocabulary, -100
            where it has none; only for spaces with ``needs_teacher_argmax``.
        measure: how distributions are measured.
        shared_tokens: the tokens that both vocabularies have, or None; only for spaces with ``needs_shared_tokens``.
        columns: by name without the side, ``[N, ...]``: those columns of the batch that the space `reads_columns` of,
            each row's entry being that of the token which is right there.
        built: what was built for those of the space's distances that have parameters; see `function_of`.
        teacher_to_student: ``[Vt]``, int64, or None: the student's token for each of the teacher's, -1 where it has
            none; only for spaces with ``needs_vocabulary_map``. Unlike `shared_tokens`, several may have one partner,
            and with ``vocabulary_method="min_edit"`` a partner may be the nearest token and not the same.
    """

    student_logits: Tensor
    teacher_logits: Tensor
    targets: Tensor
    teacher_argmax: Tensor | None
    measure: Measure
    shared_tokens: SharedTokens | None = None
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    built: Sequence[tuple[Distance, DistanceFunction]] = ()
    teacher_to_student: Tensor | None = None

    @cached_property
    def log_probs(self) -> tuple[Tensor, Tensor]:
        """``[N, Vs]`` and ``[N, Vt]``: log-probabilities of student and teacher at the spec's temperatures.

        For comparisons that `divergence` does not make, as over a part of two vocabularies; multiply what comes of
        them by ``measure.scale``. They go through autograd in every engine.
        """
        measure = self.measure
        student, teacher = self.student_logits / measure.temperature, self.teacher_logits / measure.teacher_temperature
        return student.log_softmax(-1), teacher.log_softmax(-1)

    def restricted(self, ids: Tensor) -> ComparedRows:
        """Return the same rows over a part of the vocabulary, whose other tokens cannot occur.

        Args:
            ids: ``[K]``, int64, ascending: the tokens that are left. They are numbered anew, from 0 on.
        """
        return ComparedRows(
            student_logits=self.student_logits[:, ids],
            teacher_logits=self.teacher_logits[:, ids],
            targets=self._numbered_anew(self.targets, ids),
            teacher_argmax=None if self.teacher_argmax is None else self._numbered_anew(self.teacher_argmax, ids),
            measure=self.measure,
            columns=self.columns,
            built=self.built,
            teacher_to_student=None if self.teacher_to_student is None else torch.arange(len(ids), device=ids.device),
        )

    def _numbered_anew(self, tokens: Tensor, ids: Tensor) -> Tensor:
        place = torch.full((max(self.student_logits.shape[1], self.teacher_logits.shape[1]),), -100, device=ids.device)
        place[ids] = torch.arange(len(ids), device=ids.device)
        return place[tokens.clamp_min(0)].where(tokens >= 0, -100)

    def function_of(self, distance: Distance | None) -> DistanceFunction:
        """Return what maps log-probabilities ``[N, V]`` of student and teacher to distances ``[N]``.

        It is the distance itself, or what was built for it if it has parameters. For comparisons that `divergence`
        does not make; `log_probs` are at the spec's temperatures, and ``measure.scale`` is left to the caller.

        Args:
            distance: the space's own choice, or None for the spec's.
        """
        distance = self.measure.distance if distance is None else distance
        return next((function for known, function in self.built if known == distance), distance)

    def divergence(self, distance: Distance | None, *, detach_teacher: bool = False) -> Tensor:
        """Return ``[N]``: the distance of each row at the spec's temperatures, in nats.

        Args:
            distance: the space's own choice, or None for the spec's.
            detach_teacher: keep the gradient from the teacher's side.
        """
        measure, distance = self.measure, distance or self.measure.distance
        teacher_logits = self.teacher_logits.detach() if detach_teacher else self.teacher_logits
        student_log_probs = (self.student_logits / measure.temperature).log_softmax(-1)
        teacher_log_probs = (teacher_logits / measure.teacher_temperature).log_softmax(-1)
        return measure.scale * checked_call(distance, self.function_of(distance), student_log_probs, teacher_log_probs)

    def shared_divergence(self, distance: Distance | None) -> Tensor:
        """Return ``[N]``: the distance between what the two make of the `shared_tokens`, in nats.

        Both distributions, at the spec's temperatures, are narrowed to these tokens, as if it were known that the next
        one is among them. The distance is multiplied by the teacher's probability that it is, a constant for the
        gradient: so the chain rule of KL has it. A space that asks for it leaves `Space.reads_logits` True.

        Args:
            distance: the space's own choice, or None for the spec's.
        """
        shared, measure, distance = self.shared_tokens, self.measure, distance or self.measure.distance
        assert shared is not None, "for spaces that need shared tokens"
        student = self.student_logits[:, shared.student_ids] / measure.temperature
        teacher = self.teacher_logits / measure.teacher_temperature
        of_shared = teacher[:, shared.teacher_ids]
        probability = (of_shared.detach().logsumexp(-1) - teacher.detach().logsumexp(-1)).exp()
        sides = student.log_softmax(-1), of_shared.log_softmax(-1)
        return measure.scale * probability * checked_call(distance, self.function_of(distance), *sides)

    def cross_entropy(self, side: Side, targets: Tensor) -> Tensor:
        """Return ``[N]``: the cross entropy of one side's logits at temperature 1, in nats; 0 where there is no target.

        Args:
            side: whose logits.
            targets: ``[N]``, int64, -100 for none.
        """
        return token_cross_entropy(self._logits(side), targets)

    def predicted(self, side: Side) -> Tensor:
        """Return ``[N]``, int64: the most likely token of one side's logits.

        Args:
            side: whose logits.
        """
        return self._logits(side).detach().argmax(-1)

    def _logits(self, side: Side) -> Tensor:
        return self.student_logits if side == "student" else self.teacher_logits


@dataclass(frozen=True, eq=False, kw_only=True)
class SpaceResult:
    """What a space found: terms of the loss and numbers for the log, both by name."""

    terms: Mapping[str, TokenTerm]
    metrics: Mapping[str, Tally] = field(default_factory=dict)


class Space(ColumnReader, ABC):
    """A place where logits from both models meet.

    A space says on whose positions it works, through which projector the other model's hidden states get there and
    which head reads them; the loss does all of that and hands it the rows to compare.
    """

    kind: ClassVar[str] = "space"

    side: ClassVar[Side]
    """Whose positions the rows are. The other side's states are brought there by the aligner."""

    projector: ClassVar[Direction | None] = None
    """Which projection the other model's states pass; None leaves them in their own space, read by their own head."""

    one_vocabulary: ClassVar[bool] = False
    """Whether it compares two models' own logits token by token, which presumes that they share a vocabulary."""

    terms: ClassVar[tuple[str, ...]] = ()
    """Names of the terms that `compare` gives, so that a spec which weights another one is known to be wrong. Without
    them that shows at the first batch."""

    reads_logits: ClassVar[bool] = True
    """Whether `compare` reads ``rows.student_logits``, ``rows.teacher_logits`` or ``rows.log_probs`` themselves. False:
    it asks for `ComparedRows.divergence`, `cross_entropy` and `predicted` alone, and of logits for no more than their
    shape, so that they can be computed where a head is cut over ranks; otherwise the head is gathered for it."""

    distance_terms: ClassVar[tuple[str, ...]] = ()
    """Names of the terms that are distances of two distributions: taken at the spec's temperatures, multiplied once
    with ``measure.scale``, and 0 where both sides say the same of the tokens that are compared. In a space that
    `needs_shared_tokens`, these are the shared tokens, each with its probability among them. Laws hold them to it."""

    @property
    def sides_read(self) -> tuple[Side, ...]:
        """Its own side."""
        return (self.side,)

    @property
    def needs_teacher_argmax(self) -> bool:
        """Whether `compare` reads ``rows.teacher_argmax``."""
        return False

    @property
    def needs_shared_tokens(self) -> bool:
        """Whether `compare` reads ``rows.shared_tokens``. With two tokenizers it needs a map between vocabularies."""
        return False

    @property
    def needs_vocabulary_map(self) -> bool:
        """Whether `compare` reads ``rows.teacher_to_student``. With two tokenizers a map between them is needed."""
        return False

    @property
    def min_shared_tokens(self) -> int:
        """How many tokens both vocabularies must have in common. A loss for models that have fewer is refused."""
        return 0

    @property
    def needs_hard_alignment(self) -> bool:
        """Whether it must be settled before training which positions belong together (`Aligner.is_hard`).

        A loss with an aligner that weighs positions anew in each step, such as ``cma``, is refused.
        """
        return False

    @property
    def compares_vocabularies(self) -> bool:
        """Whether it must be known which tokens of two vocabularies are the same."""
        needs = (self.needs_teacher_argmax, self.needs_shared_tokens, self.needs_vocabulary_map)
        return any(needs) or self.min_shared_tokens > 0

    treats_tokens_alike: ClassVar[bool] = True
    """Whether numbering the tokens otherwise changes nothing. False for a space that knows something of each token."""

    learning_rate_factor: ClassVar[float] = 1.0
    """What the learning rate of what `build` makes is multiplied with in `DSKDLoss.param_groups`."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Check the class when it is made; one without `compare` and `build` is abstract.

        One with a `compare` of its own is taken to read logits unless it says otherwise itself.
        """
        super().__pydantic_init_subclass__(**kwargs)
        forget_outdated(cls, Space, "compare", "reads_logits")
        stay_abstract(cls, Space, "compare")
        if not cls.__abstractmethods__ and not cls.model_fields["name"].is_required():
            _require_side(cls)

    def build(self, *, heads: ProjectorHeads | None) -> nn.Module | None:  # noqa: ARG002
        """Return a module with parameters and buffers, whose method ``compare`` is called in place of the space's.

        None, as it stands: there are none. A module becomes part of the loss: it is trained, saved and moved with it.
        Its parameters and floating buffers have the precision of the logits in each call, whatever they are kept in.

        Args:
            heads: both models' heads and vocabularies, from teacher to student. None where the loss is built without;
                `required` refuses that in words.
        """
        return None

    def distances(self, default: Distance) -> tuple[Distance, ...]:
        """Return the distances that `compare` measures with. Those that have parameters are built for the space.

        As it stands: those in its fields, or the spec's where there are none.

        Args:
            default: the spec's.
        """
        return tuple(_distances_in([value for _, value in self])) or (default,)

    def compared_tokens(self, heads: ProjectorHeads) -> ComparedTokens:
        """Return the tokens that distributions are over where `compare` measures them, for distances that are built.

        As it stands: the tokens that both models have, where the space `needs_shared_tokens` or is of
        ``one_vocabulary``; else all of its own side.

        Args:
            heads: both models' heads and vocabularies.
        """
        vocabulary, device = heads.vocabulary(self.side), heads.source.weight.device
        student, teacher = heads.shared_ids("student"), heads.shared_ids("teacher")
        ids = torch.arange(heads.side(self.side).vocabulary_size, device=device)
        if self.needs_shared_tokens or self.one_vocabulary:
            if student is None or teacher is None:
                ids = ids[: min(heads.source.vocabulary_size, heads.target.vocabulary_size)]
            elif self.one_vocabulary:
                ids = student
            else:
                shared = SharedTokens.one_to_one(student, teacher)
                ids = shared.student_ids if self.side == "student" else shared.teacher_ids
        return ComparedTokens(side=self.side, ids=ids, vocabulary=vocabulary)

    def compare(self, rows: ComparedRows) -> SpaceResult:  # noqa: ARG002
        """Return the loss terms of the rows. Each row's values may depend on that row alone.

        Args:
            rows: the positions at which the space compares, all of a batch or a few of it.

        Raises:
            ConfigurationError: the space has parameters, and what `build` returned is to be called instead.
        """
        raise ConfigurationError(
            f"The space {self.name!r} has parameters, so it cannot compare itself: build(...) returns what can."
        )


def _require_side(space: type[Space]) -> None:
    """Refuse a class that works on no side, or has states projected away from it.

    Raises:
        TypeError: the class declares such a thing.
    """
    side = getattr(space, "side", None)
    if isinstance(side, property) or isinstance(space.projector, property):
        return
    if side not in get_args(Side):
        raise TypeError(
            f"{space.__name__}.side: expected 'student' or 'teacher', whose positions it compares at, got {side!r}."
        )
    arriving = "t2s" if side == "student" else "s2t"
    if space.projector not in (arriving, None):
        raise TypeError(
            f"{space.__name__}.projector: expected {arriving!r} or None, for the other model's states come to the "
            f"{side}'s, got {space.projector!r}."
        )


def _distances_in(value: object) -> Iterator[Distance]:
    """Yield the distances that a value holds; those within a distance are its own affair."""
    if isinstance(value, Distance):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _distances_in(part)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _distances_in(part)
