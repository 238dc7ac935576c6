"""Hypothesis strategies for the tests: logits of every temper, ragged batches, specs over all that is registered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from dskd_components import DSKDLoss, DSKDOutput, Head, LMStates, TokenGroups

SEEDS = st.integers(0, 2**31 - 1)


@st.composite
def logits(draw: st.DrawFn, rows: int, vocabulary: int) -> Tensor:
    """Rows of logits, float64: ordinary, peaked, tied, huge, or near one another; drawn for each row."""
    generator = torch.Generator().manual_seed(draw(SEEDS))
    drawn = []
    for _ in range(rows):
        row = torch.randn(vocabulary, generator=generator, dtype=torch.float64)
        temper = draw(st.sampled_from(["ordinary", "peaked", "tied", "huge", "flat", "one_hot"]))
        if temper == "peaked":
            row = row * 10
        elif temper == "tied":
            row = row.round()
        elif temper == "huge":
            row = row.sign() * 1e4
        elif temper == "flat":
            row = row * 1e-4
        elif temper == "one_hot":
            row = torch.full_like(row, -80.0)
            row[draw(st.integers(0, vocabulary - 1))] = 80.0
        drawn.append(row)
    return torch.stack(drawn)


@st.composite
def pairs_of_logits(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Student and teacher logits ``[N, V]``, float64."""
    rows, vocabulary = draw(st.integers(1, 4)), draw(st.integers(2, 12))
    return draw(logits(rows, vocabulary)), draw(logits(rows, vocabulary))


@dataclass(frozen=True)
class Batch:
    """Both sides of a batch with separate lengths, what the models are made of, and which tokens belong together."""

    student: LMStates
    teacher: LMStates
    groups: TokenGroups

    def loss(self, loss_fn: DSKDLoss, **options: Any) -> DSKDOutput:
        """Call a loss, with the groups if its aligner wants to be told."""
        told = self.groups if loss_fn.spec.aligner.text_method else None
        output: DSKDOutput = loss_fn(self.student, self.teacher, alignment=told, **options)
        return output

    def rows(self, rows: slice | Tensor) -> Batch:
        """The batch of some of the samples."""
        return Batch(
            rows_of(self.student, rows),
            rows_of(self.teacher, rows),
            TokenGroups(self.groups.student[rows], self.groups.teacher[rows]),
        )

    def padded(self, student: tuple[int, int], teacher: tuple[int, int], garbage: float) -> Batch:
        """The same samples between unscored positions that hold garbage."""
        groups = zip((self.groups.student, self.groups.teacher), (student, teacher), strict=True)
        return Batch(
            padded(self.student, *student, garbage=garbage),
            padded(self.teacher, *teacher, garbage=garbage),
            TokenGroups(*(torch.nn.functional.pad(group, side, value=-1) for group, side in groups)),
        )

    def packed(self) -> Batch:
        """The samples in one row."""
        return Batch(
            packed(self.student),
            packed(self.teacher),
            TokenGroups(self.groups.student.reshape(1, -1), self.groups.teacher.reshape(1, -1)),
        )


def make_states(
    generator: torch.Generator,
    *,
    batch: int,
    length: int,
    hidden: int,
    vocabulary: int,
    targets: Tensor,
    dtype: torch.dtype = torch.float64,
) -> LMStates:
    """Random states of one model with the given targets."""

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return LMStates(
        hidden_states=random(batch, length, hidden),
        targets=targets,
        head=Head(random(vocabulary, hidden)),
        input_ids=torch.randint(0, vocabulary, (batch, length), generator=generator),
        embedding=random(vocabulary, hidden),
    )


def ragged_targets(
    generator: torch.Generator, batch: int, length: int, vocabulary: int, *, at_least: int = 1
) -> Tensor:
    """Targets with unscored prompts and padding of random length, at least some scored in every row."""
    targets = torch.randint(0, vocabulary, (batch, length), generator=generator)
    for row in targets:
        scored = int(torch.randint(at_least, length + 1, (), generator=generator))
        start = int(torch.randint(0, length - scored + 1, (), generator=generator))
        row[:start] = -100
        row[start + scored :] = -100
    return targets


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
) -> Batch:
    """A random batch; with one tokenizer both sides have the same length, vocabulary and targets."""
    generator = torch.Generator().manual_seed(seed)
    if same_tokenizer:
        teacher_length, teacher_vocabulary = student_length, student_vocabulary
    student_targets = ragged_targets(generator, batch, student_length, student_vocabulary)
    teacher_targets = (
        student_targets if same_tokenizer else ragged_targets(generator, batch, teacher_length, teacher_vocabulary)
    )
    return Batch(
        make_states(
            generator,
            batch=batch,
            length=student_length,
            hidden=student_hidden,
            vocabulary=student_vocabulary,
            targets=student_targets,
            dtype=dtype,
        ),
        make_states(
            generator,
            batch=batch,
            length=teacher_length,
            hidden=teacher_hidden,
            vocabulary=teacher_vocabulary,
            targets=teacher_targets,
            dtype=dtype,
        ),
        random_groups(generator, batch, student_length, teacher_length),
    )


def random_groups(generator: torch.Generator, batch: int, student_length: int, teacher_length: int) -> TokenGroups:
    """Monotone groups of several tokens to several, some on one side only, some tokens in none."""

    def side(length: int) -> Tensor:
        numbers = torch.randint(0, 3, (batch, length), generator=generator).cumsum(1)
        return numbers.masked_fill(torch.rand(batch, length, generator=generator) < 0.2, -1)

    return TokenGroups(side(student_length), side(teacher_length))


def packed(states: LMStates) -> LMStates:
    """The samples of a batch in one row."""
    samples, length = states.targets.shape
    assert states.input_ids is not None
    return replace(
        states,
        hidden_states=states.hidden_states.reshape(1, samples * length, -1),
        targets=states.targets.reshape(1, -1),
        input_ids=states.input_ids.reshape(1, -1),
        segment_ids=torch.arange(samples).repeat_interleave(length)[None],
    )


def rows_of(states: LMStates, rows: slice | Tensor) -> LMStates:
    """The samples of some rows of a batch."""
    assert states.input_ids is not None
    return replace(
        states,
        hidden_states=states.hidden_states[rows],
        targets=states.targets[rows],
        input_ids=states.input_ids[rows],
        segment_ids=None if states.segment_ids is None else states.segment_ids[rows],
    )


def padded(states: LMStates, left: int, right: int, *, garbage: float) -> LMStates:
    """The same samples with unscored positions around them that hold garbage."""
    assert states.input_ids is not None
    hidden = torch.nn.functional.pad(states.hidden_states, (0, 0, left, right), value=garbage)
    return replace(
        states,
        hidden_states=hidden,
        targets=torch.nn.functional.pad(states.targets, (left, right), value=-100),
        input_ids=torch.nn.functional.pad(states.input_ids, (left, right), value=-1),
        segment_ids=None
        if states.segment_ids is None
        else torch.nn.functional.pad(states.segment_ids, (left, right), value=-1),
    )
