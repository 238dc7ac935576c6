"""Laws about what an alignment brings to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dskd_components.testing.expectation import expect, expect_close, expect_finite
from dskd_components.testing.law import law
from dskd_components.testing.laws.aligner.evaluation import aligned, batch_cases, is_told, weights
from dskd_components.testing.strategies.logits import normal

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.aligner import Aligner
    from dskd_components.models.states import LMStates
    from dskd_components.testing.strategies.batches import Batch


@law("aligner", cases=batch_cases())
def a_constant_is_brought_over_unchanged(aligner: Aligner, batch: Batch, seed: int) -> None:
    """The weights for a covered position add up to one, over scored positions alone.

    So a hidden state keeps its size on the way. Attention that reaches padding breaks this.
    """
    found = aligned(aligner, batch, seed)
    for name, side, covered, bring in (
        ("student", batch.teacher, found.student_covered, found.to_student),
        ("teacher", batch.student, found.teacher_covered, found.to_teacher),
    ):
        constant = torch.ones(*side.targets.shape, 2).double().masked_fill(~side.scored[..., None], 0.0)
        brought = bring(constant)
        expect_finite(brought, f"what is brought to the {name}'s positions")
        expected = torch.ones_like(brought[covered])
        expect_close(brought[covered], expected, f"ones brought to the {name}'s covered positions")


@law("aligner", cases=batch_cases())
def bringing_over_is_linear(aligner: Aligner, batch: Batch, seed: int) -> None:
    """What is brought over depends linearly on what is there.

    Projection and alignment can then change places, and one alignment serves hidden states of any width.
    """
    found = aligned(aligner, batch, seed)
    for name, side, bring in (
        ("student", batch.teacher, found.to_student),
        ("teacher", batch.student, found.to_teacher),
    ):
        first, second = normal(seed, 2, *side.targets.shape, 2).masked_fill(~side.scored[..., None], 0.0)
        expect_close(
            bring(2 * first - second),
            2 * bring(first) - bring(second),
            f"2 x - y brought to the {name}'s positions, against 2 x brought minus y brought",
        )


@law("aligner", cases=batch_cases(min_samples=2))
def weights_stay_within_the_sample(aligner: Aligner, batch: Batch, seed: int) -> None:
    """In a packed row, nothing comes from another sample or from a position that is not scored.

    A neighbour in the row is another text; what it holds must not leak into this one.
    """
    row = batch.packed()
    forth, back = weights(aligned(aligner, row, seed))
    _expect_within_sample(forth, row.student, row.teacher, "student")
    _expect_within_sample(back, row.teacher, row.student, "teacher")


@law("aligner", cases=batch_cases(min_samples=2))
def the_index_stays_within_the_sample(aligner: Aligner, batch: Batch, seed: int) -> None:
    """``teacher_index`` points at a scored position of the same sample for covered positions, and is -1 for others.

    The teacher's choice of a token travels along it.
    """
    row = batch.packed()
    found = aligned(aligner, row, seed)
    index = found.teacher_index()
    expect(index.dtype == torch.int64, f"teacher_index: expected dtype int64, found {index.dtype}.")
    expect_close(index >= 0, found.student_covered, "whether teacher_index points anywhere, against student_covered")
    nowhere = index[~found.student_covered]
    expect_close(nowhere, torch.full_like(nowhere, -1), "teacher_index where nothing is covered")
    theirs = index[found.student_covered]
    expect(row.teacher.scored[0, theirs], f"teacher_index: expected scored positions, found {theirs.tolist()}.")
    same = row.teacher.samples[0, theirs] == row.student.samples[found.student_covered]
    expect(same, f"teacher_index: expected positions of the same sample, found {theirs.tolist()}.")


@law("aligner", cases=batch_cases(), claimed_by=lambda aligner: aligner.text_method is not None)
def groups_are_followed(aligner: Aligner, batch: Batch, seed: int) -> None:
    """What a position receives comes from its own group on the other side.

    For aligners that are told the groups. Being off by one position breaks this.
    """
    found = aligned(aligner, batch, seed)
    student, teacher = batch.groups.student, batch.groups.teacher
    together = (student[:, :, None] == teacher[:, None, :]) & (student[:, :, None] >= 0)
    forth, back = weights(found)
    _expect_only(forth, together, "student", "a position of another group")
    _expect_only(back, together.transpose(1, 2), "teacher", "a position of another group")
    index = found.teacher_index()
    of_index = teacher.gather(1, index.clamp_min(0))[found.student_covered]
    expect_close(of_index, student[found.student_covered], "the group that teacher_index points at")


@law("aligner", cases=batch_cases(), claimed_by=lambda aligner: aligner.same_tokenizer)
def positions_belong_to_themselves(aligner: Aligner, batch: Batch, seed: int) -> None:
    """With one tokenizer, a covered position receives the other side's same position and nothing else.

    For aligners that declare ``same_tokenizer``.
    """
    found = aligned(aligner, batch, seed)
    own = torch.eye(batch.student.targets.shape[1], dtype=torch.bool).expand(len(batch.student.targets), -1, -1)
    for name, there in zip(("student", "teacher"), weights(found), strict=True):
        _expect_only(there, own, name, "another position")


@law("aligner", cases=batch_cases(min_samples=3, at_least=4), claimed_by=is_told)
def pairs_do_not_cross(aligner: Aligner, batch: Batch, seed: int) -> None:
    """Later positions never belong to earlier ones: ``teacher_index`` does not fall along a sample.

    For aligners that are told. Two tokenizations of a text run through it in one direction.
    """
    index = aligned(aligner, batch, seed).teacher_index()
    for sample, row in enumerate(index):
        reached = row[row >= 0]
        falls = reached[1:] < reached[:-1]
        expect(not bool(falls.any()), f"teacher_index of sample {sample}: expected no fall, found {row.tolist()}.")


def _expect_within_sample(found: Tensor, own: LMStates, other: LMStates, side: str) -> None:
    same = own.samples[:, :, None] == other.samples[:, None, :]
    _expect_only(found, same & other.scored[:, None, :], side, "an unscored position or another sample")


def _expect_only(found: Tensor, allowed: Tensor, side: str, what: str) -> None:
    __tracebackhide__ = True
    outside = (found != 0) & ~allowed
    if outside.any():
        sample, to, source = outside.nonzero()[0].tolist()
        expect(
            False,
            f"the {side}'s position {to} of row {sample}: expected nothing from {what}, found weight "
            f"{float(found[sample, to, source]):.4g} from position {source}.",
        )
