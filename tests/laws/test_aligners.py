"""What every registered aligner must obey."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from registered import names
from strategies import SEEDS, Batch, make_batch

from dskd_components import Aligner, Alignment, get_aligner

pytestmark = pytest.mark.parametrize("aligner", [get_aligner(n) for n in names("aligner")], ids=lambda a: a.name)


def aligned(aligner: Aligner, batch: Batch, seed: int) -> Alignment:
    assert batch.student.embedding is not None
    assert batch.teacher.embedding is not None
    torch.manual_seed(seed)
    module = aligner.build(
        student_embedding_size=batch.student.embedding.shape[1],
        teacher_embedding_size=batch.teacher.embedding.shape[1],
    ).double()
    return module(batch.student, batch.teacher, batch.groups if aligner.text_method else None)


@given(seed=SEEDS)
def test_only_scored_positions_are_covered(aligner: Aligner, seed: int) -> None:
    batch = make_batch(seed, same_tokenizer=aligner.same_tokenizer)
    found = aligned(aligner, batch, seed)
    assert found.student_covered.dtype == torch.bool
    assert not (found.student_covered & ~batch.student.scored).any()
    assert not (found.teacher_covered & ~batch.teacher.scored).any()


@given(seed=SEEDS)
def test_a_constant_is_brought_over_unchanged(aligner: Aligner, seed: int) -> None:
    """Weights of a covered position add up to one, and nothing comes from unscored positions."""
    batch = make_batch(seed, same_tokenizer=aligner.same_tokenizer)
    found = aligned(aligner, batch, seed)
    for side, covered, bring in (
        (batch.teacher, found.student_covered, found.to_student),
        (batch.student, found.teacher_covered, found.to_teacher),
    ):
        constant = torch.ones(*side.targets.shape, 2).double().masked_fill(~side.scored[..., None], 0.0)
        brought = bring(constant)
        assert brought.isfinite().all()
        torch.testing.assert_close(brought[covered], torch.ones_like(brought[covered]))


@given(seed=SEEDS)
def test_bringing_over_is_linear(aligner: Aligner, seed: int) -> None:
    batch = make_batch(seed, same_tokenizer=aligner.same_tokenizer)
    found = aligned(aligner, batch, seed)
    generator = torch.Generator().manual_seed(seed)
    for side, bring in ((batch.teacher, found.to_student), (batch.student, found.to_teacher)):
        first, second = (torch.randn(*side.targets.shape, 2, generator=generator).double() for _ in range(2))
        torch.testing.assert_close(bring(2 * first - second), 2 * bring(first) - bring(second))


@given(seed=SEEDS)
def test_the_index_points_at_scored_positions_of_the_same_sample(aligner: Aligner, seed: int) -> None:
    batch = make_batch(seed, same_tokenizer=aligner.same_tokenizer)
    row = batch.packed()
    found = aligned(aligner, row, seed)
    index = found.teacher_index()
    assert index.dtype == torch.int64
    assert torch.equal(index >= 0, found.student_covered)
    theirs = index[found.student_covered]
    assert row.teacher.scored[0, theirs].all()
    ours = row.student.samples[found.student_covered]
    assert torch.equal(row.teacher.samples[0, theirs], ours)


@given(seed=SEEDS, left=st.integers(0, 3), right=st.integers(0, 3))
def test_padding_moves_nothing(aligner: Aligner, seed: int, left: int, right: int) -> None:
    batch = make_batch(seed, same_tokenizer=aligner.same_tokenizer)
    teacher_left, teacher_right = (left, right) if aligner.same_tokenizer else (right, left)
    wide = batch.padded((left, right), (teacher_left, teacher_right), float("nan"))
    plain, other = aligned(aligner, batch, seed), aligned(aligner, wide, seed)
    length = batch.student.targets.shape[1]
    index = other.teacher_index()[:, left : left + length]
    moved = torch.where(index >= 0, index - teacher_left, index)
    assert torch.equal(moved, plain.teacher_index())
    for name, tally in plain.metrics.items():
        torch.testing.assert_close(other.metrics[name].mean(), tally.mean())
