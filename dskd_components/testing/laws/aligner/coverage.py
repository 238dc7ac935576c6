"""Laws about whom an alignment reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dskd_components.testing.expectation import expect
from dskd_components.testing.law import law
from dskd_components.testing.laws.aligner.evaluation import aligned, batch_cases, is_told

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.aligner import Aligner
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
