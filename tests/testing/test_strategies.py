"""What the strategies promise: shapes, bounds, and that every temper and every special case comes up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st

from dskd_components.aligners import Span
from dskd_components.testing import laws
from dskd_components.testing.strategies import (
    SEEDS,
    Batch,
    batches,
    log_probabilities,
    logits,
    make_batch,
    pairs_of_log_probabilities,
    pairs_of_logits,
    sets_of_logits,
    targets,
    two_tokenizations,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from dskd_components.testing.strategies import TwoTokenizations

quickly = settings(max_examples=2000, database=None)


@given(rows=logits(2, 5))
def test_rows_of_logits_are_finite_float64(rows: Tensor) -> None:
    assert rows.shape == (2, 5)
    assert rows.dtype == torch.float64
    assert rows.isfinite().all()


@pytest.mark.parametrize(
    "special",
    [
        lambda row: (row.abs() == 1e4).any(),
        lambda row: row.max() == 80 and row.min() == -80,
        lambda row: 0 < row.abs().max() < 1e-2,
        lambda row: row.unique().numel() < row.numel() and row.any(),
        lambda row: 10 < row.abs().max() < 60,
    ],
    ids=["huge", "one hot", "flat", "tied", "peaked"],
)
def test_every_temper_comes_up(special: Callable[[Tensor], bool]) -> None:
    assert special(find(logits(1, 4).map(lambda rows: rows[0]), special, settings=quickly))


def test_entries_may_be_ruled_out_but_never_a_whole_row() -> None:
    rows = logits(1, 3, tempers=("ruled_out",))
    assert (find(rows, lambda row: row[0, 0] == -math.inf, settings=quickly) == -math.inf).any()

    @given(rows)
    def some_token_is_possible(row: Tensor) -> None:
        assert row.max() > -math.inf

    some_token_is_possible()


def test_logits_shrink_to_zeros() -> None:
    assert torch.equal(find(logits(), lambda _: True), torch.zeros(1, 2).double())


@given(pair=pairs_of_logits(), three=sets_of_logits(3))
def test_members_of_a_set_have_one_shape(pair: tuple[Tensor, Tensor], three: list[Tensor]) -> None:
    assert pair[0].shape == pair[1].shape
    assert len({tuple(member.shape) for member in three}) == 1


def test_pairs_may_be_all_but_equal() -> None:
    student, teacher = find(
        pairs_of_logits(1, 3), lambda pair: 0 < (pair[0] - pair[1]).abs().max() < 1e-5, settings=quickly
    )
    assert not torch.equal(student, teacher)


@given(rows=log_probabilities(), pair=pairs_of_log_probabilities(tempers=("ruled_out", "peaked")))
def test_log_probabilities_are_normalised(rows: Tensor, pair: tuple[Tensor, Tensor]) -> None:
    for side in (rows, *pair):
        torch.testing.assert_close(side.exp().sum(-1), torch.ones(len(side)).double())


@given(drawn=targets(3, 5, 7))
def test_targets_are_one_stretch_of_tokens_a_row(drawn: Tensor) -> None:
    assert drawn.dtype == torch.int64
    for row in drawn:
        places = (row >= 0).nonzero()[:, 0].tolist()
        assert places == list(range(places[0], places[0] + len(places))) if places else True
        assert row[row >= 0].lt(7).all()
        assert (row[row < 0] == -100).all()


@given(two=two_tokenizations())
def test_two_tokenizations_are_of_one_text(two: TwoTokenizations) -> None:
    assert "".join(two.student) == "".join(two.teacher) == two.text
    for student, teacher in two.span_groups():
        assert "".join(two.student[slice(*student)]) == "".join(two.teacher[slice(*teacher)])
    for i, j in two.equal_tokens():
        assert two.student[i] == two.teacher[j]
    groups = two.token_groups()
    assert groups.student.min() >= 0
    assert groups.teacher.min() >= 0
    assert groups.student.max() == groups.teacher.max() == len(two.span_groups()) - 1


@given(two=two_tokenizations(), seed=SEEDS)
def test_an_aligner_can_be_tried_on_two_tokenizations(two: TwoTokenizations, seed: int) -> None:
    lengths = {"student_length": len(two.student), "teacher_length": len(two.teacher)}
    batch = make_batch(seed, same_tokenizer=False, batch=1, **lengths)
    real = Batch(batch.student, batch.teacher, two.token_groups())
    laws.aligner.groups_are_followed(Span(), real, seed)
    laws.aligner.pairs_do_not_cross(Span(), real, seed)


@given(batch=batches(same_tokenizer=False), left=st.integers(0, 2), right=st.integers(0, 2))
def test_layouts_of_a_batch_hold_the_same_scored_positions(batch: Batch, left: int, right: int) -> None:
    wide = batch.padded((left, right), (right, left), float("nan"))
    for layout in (wide, batch.packed(), batch.spoilt()):
        for side in ("student", "teacher"):
            states, plain = getattr(layout, side), getattr(batch, side)
            assert torch.equal(states.targets[states.scored], plain.targets[plain.scored])
            assert torch.equal(states.hidden_states[states.scored], plain.hidden_states[plain.scored])
            assert torch.equal(states.input_ids[states.scored], plain.input_ids[plain.scored])
            groups, own = getattr(layout.groups, side), getattr(batch.groups, side)
            assert torch.equal(groups[states.scored], own[plain.scored])
    assert wide.student.targets.shape[1] == batch.student.targets.shape[1] + left + right


def test_one_tokenizer_has_one_set_of_targets_and_groups() -> None:
    batch = make_batch(1, same_tokenizer=True)
    assert torch.equal(batch.student.targets, batch.teacher.targets)
    assert torch.equal(batch.groups.student, batch.groups.teacher)
