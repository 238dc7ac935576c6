"""Ragged batches of both models' states, and the ways in which the same batch can be laid out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from dskd_components.components.column_reader import columns_read_by
from dskd_components.models.states import Side
from dskd_components.models.token_groups import TokenGroups
from dskd_components.testing.strategies.logits import SEEDS
from dskd_components.testing.strategies.states import make_states, packed, padded, ragged_targets, random_groups, spoilt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dskd_components.components.column_reader import ColumnReader
    from dskd_components.loss.dskd_loss import DSKDLoss
    from dskd_components.loss.output import DSKDOutput
    from dskd_components.models.states import LMStates


def with_example_columns(batch: Batch, readers: Sequence[ColumnReader]) -> Batch:
    """Return a batch with the columns that components read, however it is laid out; those that it has stay.

    Args:
        batch: the batch.
        readers: aligners and spaces, whose `ColumnReader.example_column` says what they are.
    """
    for side in get_args(Side):
        states: LMStates = getattr(batch, side)
        tokens = states.targets.clamp_min(0)
        made = {
            name: reader.example_column(name, tokens)
            for reader in readers
            for name in columns_read_by(reader, side)
            if name not in states.columns
        }
        if made:
            with_columns = replace(states, columns={**states.columns, **made})
            batch = replace(batch, student=with_columns) if side == "student" else replace(batch, teacher=with_columns)
    return batch


@dataclass(frozen=True, eq=False)
class Batch:
    """Both sides of a batch with lengths of their own, and which of their positions belong together.

    Args:
        student: the student's states.
        teacher: the teacher's states.
        groups: which positions belong together, for aligners that are told.

    Examples:
        >>> batch = make_batch(0, same_tokenizer=False, batch=2, student_length=3, teacher_length=4)
        >>> batch.packed().teacher.targets.shape
        torch.Size([1, 8])
        >>> batch.padded((1, 0), (0, 2), garbage=0.0).teacher.targets.shape
        torch.Size([2, 6])
    """

    student: LMStates
    teacher: LMStates
    groups: TokenGroups

    def loss(self, loss_fn: DSKDLoss, **options: Any) -> DSKDOutput:
        """Call a loss, with the groups if its aligner wants to be told.

        Args:
            loss_fn: the loss.
            **options: further arguments of its call.
        """
        told = self.groups if loss_fn.spec.aligner.text_method else None
        output: DSKDOutput = loss_fn(self.student, self.teacher, alignment=told, **options)
        return output

    def rows(self, rows: slice | Tensor) -> Batch:
        """Return the batch of some of the samples.

        Args:
            rows: which ones.
        """
        return Batch(
            self.student.rows(rows),
            self.teacher.rows(rows),
            TokenGroups(self.groups.student[rows], self.groups.teacher[rows]),
        )

    def padded(self, student: tuple[int, int], teacher: tuple[int, int], garbage: float) -> Batch:
        """Return the same samples between unscored positions.

        Args:
            student: how many are added on the left and on the right of the student's side.
            teacher: the same on the teacher's side.
            garbage: what their hidden states hold.
        """
        groups = zip((self.groups.student, self.groups.teacher), (student, teacher), strict=True)
        return Batch(
            padded(self.student, *student, garbage=garbage),
            padded(self.teacher, *teacher, garbage=garbage),
            TokenGroups(*(F.pad(group, side, value=-1) for group, side in groups)),
        )

    def packed(self) -> Batch:
        """Return the samples in one row, told apart by ``segment_ids``."""
        return Batch(
            packed(self.student),
            packed(self.teacher),
            TokenGroups(self.groups.student.reshape(1, -1), self.groups.teacher.reshape(1, -1)),
        )

    def spoilt(self) -> Batch:
        """Return the same batch with NaN and impossible ids wherever nothing is scored."""
        return replace(self, student=spoilt(self.student), teacher=spoilt(self.teacher))


def make_batch(
    seed: int,
    *,
    same_tokenizer: bool,
    batch: int = 3,
    student_length: int = 6,
    teacher_length: int = 8,
    dtype: torch.dtype = torch.float64,
    student_hidden: int = 5,
    teacher_hidden: int = 7,
    student_vocabulary: int = 11,
    teacher_vocabulary: int = 13,
    at_least: int = 1,
) -> Batch:
    """Return a random batch; with one tokenizer both sides have the same length, vocabulary and targets.

    Args:
        seed: the same seed gives the same batch.
        same_tokenizer: whether both models read the same tokens.
        batch: B.
        student_length: Ts.
        teacher_length: Tt.
        dtype: of hidden states, heads and embeddings.
        student_hidden: ds.
        teacher_hidden: dt.
        student_vocabulary: Vs.
        teacher_vocabulary: Vt.
        at_least: how many positions of each row are scored at least.
    """
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    if same_tokenizer:
        teacher_length, teacher_vocabulary = student_length, student_vocabulary
    student_targets = ragged_targets(generator, batch, student_length, student_vocabulary, at_least=at_least)
    teacher_targets = (
        student_targets
        if same_tokenizer
        else ragged_targets(generator, batch, teacher_length, teacher_vocabulary, at_least=at_least)
    )
    student = make_states(
        generator, targets=student_targets, hidden=student_hidden, vocabulary=student_vocabulary, dtype=dtype
    )
    teacher = make_states(
        generator, targets=teacher_targets, hidden=teacher_hidden, vocabulary=teacher_vocabulary, dtype=dtype
    )
    groups = random_groups(generator, batch, student_length, teacher_length)
    return Batch(student, teacher, TokenGroups(groups.student, groups.student) if same_tokenizer else groups)


@st.composite
def batches(
    draw: st.DrawFn,
    *,
    same_tokenizer: bool,
    dtype: torch.dtype = torch.float64,
    min_samples: int = 1,
    at_least: int = 1,
    sizes: tuple[tuple[int, int], ...] = (),
) -> Batch:
    """Batches of one to three samples that are at most five positions long.

    Args:
        draw: given by hypothesis.
        same_tokenizer: as in `make_batch`.
        dtype: as in `make_batch`.
        min_samples: fewest samples.
        at_least: how many positions of each row are scored at least.
        sizes: the pairs of the student's and the teacher's width to choose from; none: 3 and 4.

    Examples:
        >>> from hypothesis import given
        >>> @given(batches(same_tokenizer=True))
        ... def test_one_length(batch):
        ...     assert batch.student.targets.shape == batch.teacher.targets.shape
        >>> test_one_length()
    """
    lengths = st.integers(max(at_least, 1), 5)
    student_hidden, teacher_hidden = draw(st.sampled_from(sizes or ((3, 4),)))
    return make_batch(
        draw(SEEDS),
        same_tokenizer=same_tokenizer,
        batch=draw(st.integers(min_samples, 3)),
        student_length=draw(lengths),
        teacher_length=draw(lengths),
        dtype=dtype,
        student_hidden=student_hidden,
        teacher_hidden=teacher_hidden,
        student_vocabulary=5,
        teacher_vocabulary=6,
        at_least=at_least,
    )
