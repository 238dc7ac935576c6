"""`LMStates`: what one model contributes to a batch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal

import torch
from torch import Tensor

from dskd_components.errors import InputError
from dskd_components.models.host_reads import Check, require
from dskd_components.models.precision import full_precision, upcast
from dskd_components.models.row_layout import RowLayout, fill_of, shifted_column
from dskd_components.models.state_checks import require_fitting_tensors, value_checks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Self

    from dskd_components.models.aux_loss import AuxLoss
    from dskd_components.models.head import Head


IGNORE_INDEX: Final = -100
"""The target of a position that is not scored."""

UNSCORED_SAMPLE: Final = -(2**63)
"""What stands in the place of a sample's number where a position is not scored."""

Side = Literal["student", "teacher"]
"""One of the two models."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LMStates:
    """One model's side of a batch. Position i predicts ``targets[:, i]``: targets are already shifted.

    Args:
        hidden_states: ``[B, T, d]``, floating point: the inputs of the head.
        targets: ``[B, T]``, int64: the token that each position predicts, -100 where none is scored. Positions
            that are not scored may hold anything in the other tensors; they never reach the loss.
        head: the model's head.
        input_ids: ``[B, T]``, integer: the token that each position has read. Cross-model attention needs it.
        embedding: ``[V, d]``: the model's input embedding. Cross-model attention needs it.
        segment_ids: ``[B, T]``, integer: for packed rows, which sample of the row a position belongs to; the
            same number, any int64, marks the same sample on both sides. None: one sample a row.
        samples_are_counted: whether segment ids count the samples of a row from 0 on, because nobody has named them.
            Then both sides must have as many.
        aux_loss: of a student that is a mixture of experts, the loss of its router, which joins the loss with its
            weight. A teacher's is not used.
        samples_on_host: ``[B, T]``, int64, on the host whatever the device: what `scored_samples` returns, so that an
            aligner which looks at packed rows sample by sample need not wait for the device. It is an addition that
            `DSKDLoss.run` makes; leave it out where targets or segment ids are replaced.
        columns: further columns that an aligner or a space reads, by name, each ``[B, T]`` or ``[B, T, ...]`` of any
            dtype: what belongs to the token that each position predicts. They are constants.
        widened_from: the half-precision type that hidden states had before the loss widened them, so that it may make
            matrix products of what they were. It is an addition that `DSKDLoss` makes; leave it out where hidden
            states are replaced.

    Raises:
        InputError: a tensor has the wrong shape, dtype or device; the message names it.

    Examples:
        >>> import torch
        >>> from dskd_components import Head, LMStates
        >>> states = LMStates(
        ...     hidden_states=torch.randn(2, 5, 8),
        ...     targets=torch.tensor([[1, 2, 3, -100, -100], [4, 5, 6, 0, 1]]),
        ...     head=Head(torch.randn(7, 8)),
        ... )
        >>> int(states.scored.sum())
        8
    """

    hidden_states: Tensor
    targets: Tensor
    head: Head
    input_ids: Tensor | None = None
    embedding: Tensor | None = None
    segment_ids: Tensor | None = None
    samples_are_counted: bool = False
    aux_loss: AuxLoss | None = None
    samples_on_host: Tensor | None = None
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    widened_from: torch.dtype | None = None

    def __post_init__(self) -> None:
        require_fitting_tensors(self)

    @cached_property
    def scored(self) -> Tensor:
        """``[B, T]``, bool: where a target is given."""
        return self.targets != IGNORE_INDEX

    @cached_property
    def outcomes(self) -> Tensor:
        """``[B, T]``, int64: the place of each target among the head's logits, -100 where none is scored.

        That is the target itself, unless the head has been narrowed.
        """
        subset = self.head.subset
        return self.targets if subset is None else subset.outcomes_of(self.targets)

    @cached_property
    def samples(self) -> Tensor:
        """``[B, T]``, int64: a number that positions of one sample share, unlike those of any other sample.

        A row is a sample; with ``segment_ids`` a row and a segment are. The same sample has the same number on
        the student's and the teacher's side.

        Raises:
            InputError: segment ids do not fit into 32 bits; those that an aligner is given do.
        """
        rows = torch.arange(self.targets.shape[0], device=self.targets.device)[:, None]
        rows = rows.expand_as(self.targets).contiguous()
        if self.segment_ids is None:
            return rows
        if not _fits(self.segment_ids):
            raise InputError(
                "LMStates.samples: segment_ids go beyond 32 bits, so samples cannot be numbered from one side alone. "
                "Number them with with_small_segment_ids(student, teacher) first, as the loss does for its aligner."
            )
        # A fixed stride keeps the two sides comparable, whatever numbers each of them happens to use.
        return rows * 2**32 + self.segment_ids.long()

    @cached_property
    def sample_numbers(self) -> Tensor:
        """``[B, T]``, int64: `samples`, numbered anew from 0 on, so that all are below ``B * T``."""
        return small_numbers(self.samples)[0]

    def scored_samples(self) -> Tensor:
        """Return ``[B, T]``, int64: the segment id of each scored position, 0 without such ids; elsewhere -2**63."""
        ids = torch.zeros_like(self.targets) if self.segment_ids is None else self.segment_ids.long()
        return ids.where(self.scored, UNSCORED_SAMPLE)

    def rows(self, rows: slice | Tensor) -> Self:
        """Return the states of some rows of the batch.

        Args:
            rows: a slice of them, or their numbers ``[b]``, int64.
        """
        return replace(
            self,
            hidden_states=self.hidden_states[rows],
            targets=self.targets[rows],
            input_ids=None if self.input_ids is None else self.input_ids[rows],
            segment_ids=None if self.segment_ids is None else self.segment_ids[rows],
            samples_on_host=None,
            columns={name: column[rows] for name, column in self.columns.items()},
        )

    def with_columns(self, names: Iterable[str]) -> Self:
        """Return the same states with some of their columns alone, as constants, filled in where nothing is scored.

        There they may hold anything, NaN included; `fill_of` is what they hold then.

        Args:
            names: the columns.
        """
        columns = {}
        for name in names:
            column = self.columns[name].detach()
            scored = self.scored.view(*self.scored.shape, *[1] * (column.ndim - 2))
            columns[name] = column.masked_fill(~scored, fill_of(column))
        return replace(self, columns=columns)

    def detached(self) -> Self:
        """Return the same states as constants: nothing of them receives a gradient."""
        return replace(self, hidden_states=self.hidden_states.detach(), head=self.head.detach())

    def in_full_precision(self, dtype: torch.dtype | None = None) -> Self:
        """Return the same states with hidden states in at least float32.

        Widened once, a half-precision hidden state collects the gradients of all its uses in float32.

        Args:
            dtype: float32 or float64, whatever the hidden states have; None: as wide as they are.
        """
        hidden_states = upcast(self.hidden_states) if dtype is None else self.hidden_states.to(dtype)
        is_half = self.hidden_states.dtype in (torch.bfloat16, torch.float16)
        widened_from = self.hidden_states.dtype if is_half else self.widened_from
        return replace(self, hidden_states=hidden_states, widened_from=widened_from)

    def for_autograd(self) -> Self:
        """Return the same states with copies of tensors that were made under `torch.inference_mode`.

        Autograd refuses to keep these. Head and embedding, which are large, are left as they are: they are only read.
        """
        if torch.is_inference_mode_enabled():
            return self
        tensors = {name: getattr(self, name) for name in ("hidden_states", "targets", "input_ids", "segment_ids")}
        copied = {
            name: tensor.clone() for name, tensor in tensors.items() if tensor is not None and tensor.is_inference()
        }
        columns = {name: column.clone() if column.is_inference() else column for name, column in self.columns.items()}
        return replace(self, **copied, columns=columns) if copied or columns else self

    def checked(self, side: Side) -> Self:
        """Return these states once the values in them are known to be usable.

        Args:
            side: ``"student"`` or ``"teacher"``, for the message.

        Raises:
            InputError: a target is outside the head's vocabulary.
            NonFiniteError: a scored hidden state, or entry of a column, is NaN or infinite.
        """
        require(*self.checks(side))
        return self

    def checks(self, side: Side) -> list[Check]:
        """Return what `checked` looks at, to be read with other checks.

        Args:
            side: as there.
        """
        return value_checks(self, side)

    @cached_property
    def _possible(self) -> Tensor:
        """``[B, T]``, bool: where the target is a token of the head's vocabulary."""
        subset = self.head.subset
        size = self.head.token_count if subset is None else subset.vocabulary_size
        known = (self.targets >= 0) & (self.targets < size)
        return known if subset is None else known & (self.outcomes >= 0)

    def with_possible_targets(self) -> Self:
        """Return the same states, with no target where it is outside the head's vocabulary.

        So that nothing is looked up there before `checks` are read: on an accelerator that would be beyond recovery.
        """
        return replace(self, targets=self.targets.where(self._possible, IGNORE_INDEX))

    def embedded(self, ids: Tensor, side: Side) -> Tensor:
        """Return ``[B, T, width]``: embeddings of the ids, detached, zero where no target is scored.

        They are as precise as the hidden states, in float32 at least.

        Args:
            ids: ``[B, T]``: input ids or targets; unscored entries may hold anything.
            side: ``"student"`` or ``"teacher"``, for the message.

        Raises:
            InputError: the embedding is missing, or a scored id is outside of it.
        """
        require(self.embedding_check(ids, side))
        return self.embeddings_of(ids)(slice(None))

    def embedding_check(self, ids: Tensor, side: Side) -> Check:
        """Return the check that the embedding has the scored ids.

        Args:
            ids: as in `embedded`.
            side: as there.

        Raises:
            InputError: the embedding is missing.
        """
        if self.embedding is None:
            raise InputError(
                f"{side}.embedding is missing: this aligner compares token embeddings. Pass "
                "LMStates(embedding=model.get_input_embeddings().weight)."
            )
        rows = len(self.embedding)

        def complain() -> None:
            scored_ids = ids[self.scored]
            raise InputError(
                f"{side}.embedding has {rows} rows, but ids at scored positions run from {int(scored_ids.min())} to "
                f"{int(scored_ids.max())}."
            )

        return Check((self.scored & ((ids < 0) | (ids >= rows))).any(), complain)

    def embeddings_of(self, ids: Tensor) -> Callable[[slice], Tensor]:
        """Return what gives `embedded` for some rows of the batch, for ids whose `embedding_check` is read later.

        Args:
            ids: as in `embedded`; those outside of the embedding become zero.
        """
        assert self.embedding is not None, "embedding_check says so"
        table, dtype = self.embedding.detach(), full_precision(self.hidden_states.dtype)
        unknown = ~self.scored | (ids < 0) | (ids >= len(table))
        safe, unknown = ids.long().masked_fill(unknown, 0), unknown[..., None]
        return lambda rows: table[safe[rows]].to(dtype).masked_fill_(unknown[rows], 0.0)

    @classmethod
    def from_labels(
        cls,
        *,
        hidden_states: Tensor,
        labels: Tensor,
        head: Head,
        input_ids: Tensor | None = None,
        embedding: Tensor | None = None,
        segment_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        aux_loss: AuxLoss | None = None,
        columns: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """Build states from Hugging Face labels, where ``labels[:, i]`` is the token *at* position i.

        The labels are shifted here, once: position i is given the label of the token after it, the last position none.
        Padding neither predicts nor is predicted, wherever it stands, and a position never predicts the first token of
        the next sample.

        Args:
            hidden_states: as in the class.
            labels: ``[B, T]``, int64, -100 where no token is scored; not shifted.
            head: as in the class.
            input_ids: as in the class.
            embedding: as in the class.
            segment_ids: as in the class.
            attention_mask: ``[B, T]``, 0 at padding; or a mask of query by key, ``[B, 1, T, T]``.
            position_ids: ``[B, T]`` or ``[1, T]``, integer: they start anew with each sample of a packed row. Without
                segment ids, samples are counted by them.
            aux_loss: as in the class.
            columns: as in the class, but by token: an entry belongs to the token at its place, and is shifted as labels
                are.

        Raises:
            InputError: as in the class; or two arguments disagree about where a sample begins.

        Examples:
            >>> import torch
            >>> from dskd_components import Head, LMStates
            >>> states = LMStates.from_labels(
            ...     hidden_states=torch.randn(1, 3, 8),
            ...     labels=torch.tensor([[-100, 5, 6]]),
            ...     head=Head(torch.randn(7, 8)),
            ... )
            >>> states.targets
            tensor([[   5,    6, -100]])
        """
        of_layout = {"segment_ids": segment_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        layout = RowLayout.of(labels, of_layout)
        return cls(
            hidden_states=hidden_states,
            targets=layout.shifted(labels, IGNORE_INDEX),
            head=head,
            input_ids=input_ids,
            embedding=embedding,
            segment_ids=layout.segment_ids,
            samples_are_counted=layout.counted,
            aux_loss=aux_loss,
            columns={name: shifted_column(name, column, layout) for name, column in (columns or {}).items()},
        )


def with_small_segment_ids(student: LMStates, teacher: LMStates) -> tuple[LMStates, LMStates]:
    """Return the same states with segment ids that fit into 32 bits, so that `LMStates.samples` has numbers for them.

    Args:
        student: the student's states; segment ids may be any int64, such as hashes.
        teacher: the teacher's states.
    """
    sides = (student, teacher)
    if not any(states.segment_ids is not None and states.segment_ids.dtype == torch.int64 for states in sides):
        return sides
    ids = [
        torch.zeros_like(states.targets) if states.segment_ids is None else states.segment_ids.long()
        for states in sides
    ]
    small_student, small_teacher = (
        replace(states, segment_ids=small.int()) for states, small in zip(sides, small_numbers(*ids), strict=True)
    )
    return small_student, small_teacher


def small_numbers(*tensors: Tensor) -> list[Tensor]:
    """Return tensors of the same shapes in which equal numbers are equal, in the same order, and none is large.

    Args:
        *tensors: int64, of any shape.

    Returns:
        For each, int64, numbers from 0 to how many entries there are in all of them.

    Examples:
        >>> small_numbers(torch.tensor([7, -7]), torch.tensor([7, 2**62]))
        [tensor([1, 0]), tensor([1, 3])]
    """
    ordered = torch.cat([tensor.flatten() for tensor in tensors]).sort().values
    return [torch.searchsorted(ordered, tensor.contiguous()) for tensor in tensors]


def _fits(segment_ids: Tensor) -> bool:
    if segment_ids.dtype != torch.int64:
        return True
    lowest, highest = segment_ids.aminmax()
    return bool((lowest >= -(2**31)) & (highest < 2**31))
