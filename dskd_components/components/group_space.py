"""`GroupSpace`: where what two models say of the same stretch of text meets, whatever tokens they cut it into."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from dskd_components.components.component import stay_abstract
from dskd_components.components.space import ComparedRows, Measure, Space, SpaceResult, token_cross_entropy
from dskd_components.errors import ConfigurationError
from dskd_components.models.states import Side

if TYPE_CHECKING:
    from dskd_components.components.distance import Distance


@dataclass(frozen=True, eq=False, kw_only=True)
class GroupRows:
    """Positions of one side of a comparison, one a row, whose numbers are summed over groups.

    Rows know nothing of one another. They may be all of a batch or a few of it, and some may be in no group.

    Args:
        side: which model's hidden states the logits come from.
        logits: ``[N, V]``, float32 or float64.
        targets: ``[N]``, int64: the token that is right at each row, in the vocabulary of the logits.
        temperature: what the logits are divided by.
        columns: by name without the side, ``[N, ...]``: of the side at whose positions the rows are, those columns of
            the batch that the space `reads_columns` of, each row's entry being that of the token which is right there.
    """

    side: Side
    logits: Tensor
    targets: Tensor
    temperature: float
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def log_probs(self) -> Tensor:
        """``[N, V]``: log-probabilities at the temperature. They go through autograd in every engine."""
        return (self.logits / self.temperature).log_softmax(-1)

    def target_log_probs(self) -> Tensor:
        """Return ``[N]``: the log-probability of each row's target at the temperature, in nats."""
        return -token_cross_entropy(self.logits / self.temperature, self.targets)


@dataclass(frozen=True, eq=False, kw_only=True)
class ComparedGroups:
    """Groups of positions, with what the rows of either side add up to in each; groups know nothing of one another.

    Args:
        student: ``[G]``, or ``[G, C]`` where a row has several numbers: the sums of the student's rows, part of the
            graph.
        teacher: of the same shape: the sums of the teacher's rows. They have a graph where the teacher's states are
            projected.
        student_sizes: ``[G]``, int64: how many of the student's rows each group has.
        teacher_sizes: ``[G]``, int64: how many of the teacher's.
        measure: how the spec measures distributions. The temperatures are applied in the rows already; ``scale`` is
            not.
    """

    student: Tensor
    teacher: Tensor
    student_sizes: Tensor
    teacher_sizes: Tensor
    measure: Measure


class GroupSpace(Space):
    """A place where models meet by groups of positions: each gives numbers a row, and sums over groups are compared.

    The groups are those of the alignment, a stretch of text for `Span`. Each model's own logits give its numbers at its
    own positions. With a `projector`, both sides' numbers are made at the positions of `side` instead, one of them from
    projected states, as in a space that compares rows.

    Examples:
        The likelihood of each stretch, by a square:

        >>> from typing import ClassVar, Literal
        >>> from dskd_components import SpaceResult, TokenTerm
        >>> class SquaredSpans(GroupSpace):
        ...     name: Literal["squared_spans"] = "squared_spans"
        ...     terms: ClassVar[tuple[str, ...]] = ("squared_spans",)
        ...
        ...     def row_values(self, rows):
        ...         return rows.target_log_probs()
        ...
        ...     def combine(self, groups):
        ...         return SpaceResult(
        ...             terms={"squared_spans": TokenTerm(values=(groups.student - groups.teacher).square())}
        ...         )
        >>> SquaredSpans().side
        'student'
    """

    side: ClassVar[Side] = "student"

    @property
    def sides_read(self) -> tuple[Side, ...]:
        """Both sides, whose rows come with columns of their own; with a projector all rows are of `side`."""
        return ("student", "teacher") if self.projector is None else (self.side,)

    @property
    def needs_hard_alignment(self) -> bool:
        """Always: what is in one group with what must be settled before training.

        False for a space that is meant for aligners of your own which weigh positions anew within known groups, and
        whose alignments have `Alignment.groups_of_positions`.
        """
        return True

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Check the class when it is made; one without `combine` and `build` is abstract."""
        super().__pydantic_init_subclass__(**kwargs)
        stay_abstract(cls, GroupSpace, "combine")
        if cls.projector is None and cls.side != "student":
            raise TypeError(
                f"{cls.__name__}.side: without a projector each side's numbers are made at its own positions, so "
                f'expected "student", got {cls.side!r}.'
            )

    @abstractmethod
    def row_values(self, rows: GroupRows) -> Tensor:
        """Return ``[N]``, or ``[N, C]`` for several numbers a row; each may depend on its own row alone.

        It is called for either side; ``rows.side`` says which one. They are summed over the rows of a group.
        """

    def combine(self, groups: ComparedGroups) -> SpaceResult:  # noqa: ARG002
        """Return the loss terms, a value a group; each may depend on its own group alone.

        With parameters, what `build` returns has this method in place of the space. The mean of a term divides by the
        scored student tokens, or by the groups that it keeps (``denominator="kept"``).

        Args:
            groups: the groups that have rows on both sides.

        Raises:
            ConfigurationError: the space has parameters, and what `build` returned is to be called instead.
        """
        raise ConfigurationError(
            f"The space {self.name!r} has parameters, so it cannot combine itself: build(...) returns what can."
        )

    def compare(self, rows: ComparedRows) -> SpaceResult:  # noqa: ARG002
        """Refuse: there are no rows in which both sides meet.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(f"The space {self.name!r} combines groups, it does not compare rows.")

    def distances(self, default: "Distance") -> "tuple[Distance, ...]":  # noqa: ARG002
        """Return nothing: sums are not distributions over tokens, so no distance is built for them."""
        return ()
