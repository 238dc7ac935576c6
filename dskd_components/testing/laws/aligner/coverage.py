"""Laws about whom an alignment reaches."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from dskd_components.testing.expectation import expect, expect_close
from dskd_components.testing.law import law
from dskd_components.testing.laws.aligner.evaluation import aligned, batch_cases, is_told, weights
from dskd_components.testing.strategies.logits import normal

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.aligner import Aligner
    from dskd_components.models.states import LMStates
    from dskd_components.testing.strategies.batches import Batch


@law("aligner", cases=batch_cases())
def only_scored_positions_are_covered(aligner: Aligner, batch: Batch, seed: int) -> None:
    """A covered position is a scored one; coverage is a bool for each position.

    Nothing is known of what unscored positions hold; they may be padding.
    """
    found = aligned(aligner, batch, seed)
    for side, states, covered in (
        ("student", batch.student, found.student_covered),
        ("teacher", batch.teacher, found.teacher_covered),
    ):
        expect(covered.dtype == torch.bool, f"{side}_covered: expected dtype bool, found {covered.dtype}.")
        shape = list(states.targets.shape)
        expect(list(covered.shape) == shape, f"{side}_covered: expected shape {shape}, found {list(covered.shape)}.")
        wrong = covered & ~states.scored
        if wrong.any():
            expect(False, f"{side}_covered: expected scored positions alone, found {wrong.nonzero()[0].tolist()}.")


@law("aligner", cases=batch_cases(at_least=1), claimed_by=is_told)
def pairs_of_single_positions_are_covered(aligner: Aligner, batch: Batch, seed: int) -> None:
    """Where one scored position of each side makes a group, or stands at the same place for one tokenizer, both count.

    For aligners that are told. One that covers nobody breaks no other law, and distils nothing.
    """
    found = aligned(aligner, batch, seed)
    if aligner.same_tokenizer:
        expected_student = expected_teacher = batch.student.scored & batch.teacher.scored
    else:
        expected_student, expected_teacher = single_pairs(batch)
    for side, covered, expected in (
        ("student", found.student_covered, expected_student),
        ("teacher", found.teacher_covered, expected_teacher),
    ):
        missing = expected & ~covered
        if missing.any():
            expect(
                False, f"{side}_covered: expected {missing.nonzero()[0].tolist()} to be covered, found that it is not."
            )


@law(
    "aligner",
    cases=batch_cases(at_least=1),
    claimed_by=lambda aligner: aligner.text_method is not None and aligner.one_to_one,
)
def groups_of_several_do_not_count(aligner: Aligner, batch: Batch, seed: int) -> None:
    """A position is covered only where its group has one scored position on each side.

    Claimed by `one_to_one`. Preflight and drawings take aligners at their word.
    """
    found = aligned(aligner, batch, seed)
    for side, covered, alone in zip(
        ("student", "teacher"), (found.student_covered, found.teacher_covered), single_pairs(batch), strict=True
    ):
        wrong = covered & ~alone
        if wrong.any():
            place = wrong.nonzero()[0].tolist()
            expect(False, f"{side}_covered: expected single positions of a group alone, found {place}.")


@law("aligner", cases=batch_cases(at_least=1), claimed_by=lambda aligner: aligner.is_hard)
def a_hard_alignment_is_settled(aligner: Aligner, batch: Batch, seed: int) -> None:
    """Other states, embeddings and parameters leave what belongs together as it is, and how much it weighs.

    Claimed by `is_hard`, on which spaces may insist.
    """
    other = replace(batch, student=_other_states(batch.student, seed), teacher=_other_states(batch.teacher, seed + 1))
    settled, found = aligned(aligner, batch, seed), aligned(aligner, other, seed + 1)
    names = ("the student's coverage", "the teacher's coverage", "the student's weights", "the teacher's weights")
    parts = [
        (alignment.student_covered, alignment.teacher_covered, *weights(alignment)) for alignment in (found, settled)
    ]
    for name, now, before in zip(names, *parts, strict=True):
        expect_close(now, before, f"{name}, with other states, embeddings and parameters")


def _other_states(states: LMStates, seed: int) -> LMStates:
    """The same tokens with other hidden states and another embedding."""
    assert states.embedding is not None
    hidden_states, embedding = states.hidden_states, states.embedding
    return replace(
        states,
        hidden_states=normal(seed, *hidden_states.shape).to(hidden_states.dtype),
        embedding=normal(seed, *embedding.shape).to(embedding.dtype),
    )


def single_pairs(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return ``[B, Ts]`` and ``[B, Tt]``, bool: scored positions whose group has one scored position on each side."""
    student, teacher = (
        group.masked_fill(~states.scored, -1)
        for group, states in ((batch.groups.student, batch.student), (batch.groups.teacher, batch.teacher))
    )

    def alone(own: Tensor, other: Tensor) -> Tensor:
        one_here = (own[:, :, None] == own[:, None, :]).sum(2) == 1
        one_there = (own[:, :, None] == other[:, None, :]).sum(2) == 1
        return (own >= 0) & one_here & one_there

    return alone(student, teacher), alone(teacher, student)
