"""What every registered distance must obey."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from registered import names
from strategies import SEEDS, logits, pairs_of_logits
from torch import Tensor

from dskd_components import Distance, get_distance
from dskd_components.contracts.distribution import Distribution

pytestmark = pytest.mark.parametrize(
    "distance", [get_distance(name) for name in names("distance")], ids=lambda d: d.name
)

PAIRS = pairs_of_logits()


def value_and_gradients(distance: Distance, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    student, teacher = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    values = distance(student.log_softmax(-1), teacher.log_softmax(-1))
    gradients = torch.autograd.grad(values.sum(), (student, teacher), allow_unused=True, materialize_grads=True)
    return values.detach(), *gradients


def without_ties(student: Tensor, teacher: Tensor) -> Tensor:
    """Rows in which no token is equally likely on both sides: there a distance may have a kink, as total variation."""
    p, q = student.softmax(-1), teacher.softmax(-1)
    return ~(((p - q).abs() < 1e-9) & (p > 1e-9)).any(-1)


@given(pair=PAIRS, dtype=st.sampled_from([torch.float32, torch.float64]))
def test_one_finite_non_negative_number_a_row_with_finite_gradients(
    distance: Distance, pair: tuple[Tensor, Tensor], dtype: torch.dtype
) -> None:
    student, teacher = (side.to(dtype) for side in pair)
    values, *gradients = value_and_gradients(distance, student, teacher)
    assert values.shape == (len(student),)
    assert values.dtype == dtype
    assert values.isfinite().all()
    assert (values >= 0).all()
    assert all(gradient.isfinite().all() for gradient in gradients)


@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_zero_where_both_are_equal(distance: Distance, data: st.DataObject, dtype: torch.dtype) -> None:
    same = data.draw(logits(3, 7)).to(dtype)
    values, *gradients = value_and_gradients(distance, same, same)
    assert torch.equal(values, torch.zeros_like(values)) or values.abs().max() < 1e-6
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert gradients[0].abs().max() < 1e-5


@given(seed=SEEDS)
def test_positive_where_they_differ(distance: Distance, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(4, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    values, *_ = value_and_gradients(distance, student, teacher)
    assert (values > 1e-6).all()


@given(pair=PAIRS, shift=st.floats(-50, 50))
def test_a_constant_added_to_logits_changes_nothing(
    distance: Distance, pair: tuple[Tensor, Tensor], shift: float
) -> None:
    student, teacher = pair
    values, gradient, _ = value_and_gradients(distance, student, teacher)
    shifted, shifted_gradient, _ = value_and_gradients(distance, student + shift, teacher - shift)
    torch.testing.assert_close(shifted, values, rtol=1e-6, atol=1e-8)
    rows = without_ties(student, teacher)
    torch.testing.assert_close(shifted_gradient[rows], gradient[rows], rtol=1e-6, atol=1e-8)


@given(pair=PAIRS, seed=SEEDS)
def test_reordering_the_vocabulary_changes_nothing(distance: Distance, pair: tuple[Tensor, Tensor], seed: int) -> None:
    student, teacher = pair
    order = torch.randperm(student.shape[1], generator=torch.Generator().manual_seed(seed))
    values, gradient, _ = value_and_gradients(distance, student, teacher)
    reordered, reordered_gradient, _ = value_and_gradients(distance, student[:, order], teacher[:, order])
    torch.testing.assert_close(reordered, values, rtol=1e-6, atol=1e-9)
    rows = without_ties(student, teacher)
    torch.testing.assert_close(reordered_gradient[rows], gradient[rows][:, order], rtol=1e-6, atol=1e-9)


@given(pair=PAIRS)
def test_rows_know_nothing_of_one_another(distance: Distance, pair: tuple[Tensor, Tensor]) -> None:
    student, teacher = pair
    together, gradient, _ = value_and_gradients(distance, student, teacher)
    for row in range(len(student)):
        alone, gradient_alone, _ = value_and_gradients(distance, student[row : row + 1], teacher[row : row + 1])
        torch.testing.assert_close(alone[0], together[row])
        torch.testing.assert_close(gradient_alone[0], gradient[row])


@given(pair=PAIRS, columns=st.integers(1, 5), seed=SEEDS)
def test_entries_ruled_out_on_both_sides_count_for_nothing(
    distance: Distance, pair: tuple[Tensor, Tensor], columns: int, seed: int
) -> None:
    student, teacher = pair
    order = torch.randperm(student.shape[1] + columns, generator=torch.Generator().manual_seed(seed))
    ruled_out = torch.full((len(student), columns), -math.inf, dtype=student.dtype)
    values, gradient, _ = value_and_gradients(distance, student, teacher)
    wide, *wide_gradients = value_and_gradients(
        distance,
        torch.cat([student, ruled_out], 1)[:, order],
        torch.cat([teacher, ruled_out], 1)[:, order],
    )
    torch.testing.assert_close(wide, values, rtol=1e-6, atol=1e-9)
    expected = torch.cat([gradient, torch.zeros_like(ruled_out)], 1)[:, order]
    rows = without_ties(student, teacher)
    torch.testing.assert_close(wide_gradients[0][rows], expected[rows], rtol=1e-6, atol=1e-9)
    assert all(part.isfinite().all() for part in wide_gradients)


@given(pair=PAIRS)
def test_arguments_are_not_changed(distance: Distance, pair: tuple[Tensor, Tensor]) -> None:
    student, teacher = (side.log_softmax(-1) for side in pair)
    before = student.clone(), teacher.clone()
    distance(student, teacher)
    assert torch.equal(student, before[0])
    assert torch.equal(teacher, before[1])


@given(pair=PAIRS)
def test_the_same_arguments_give_the_same_value(distance: Distance, pair: tuple[Tensor, Tensor]) -> None:
    student, teacher = (side.log_softmax(-1) for side in pair)
    assert torch.equal(distance(student, teacher), distance(student, teacher))


def test_the_gradient_is_the_derivative(distance: Distance) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 6, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    frozen = teacher.detach()
    if not distance.gradient_is_derivative:
        return  # declared; its own test says what the gradient is instead
    assert torch.autograd.gradcheck(
        lambda logits: distance(logits.log_softmax(-1), frozen.log_softmax(-1)), (student,), atol=1e-7
    )
    assert torch.autograd.gradcheck(
        lambda logits: distance(student.detach().log_softmax(-1), logits.log_softmax(-1)), (teacher,), atol=1e-7
    )


@given(pair=PAIRS)
def test_float32_is_near_float64(distance: Distance, pair: tuple[Tensor, Tensor]) -> None:
    # The same rounded logits on both sides: what is compared is the arithmetic, not the rounding of the input.
    student, teacher = (side.float() for side in pair)
    single, *_ = value_and_gradients(distance, student, teacher)
    double, *_ = value_and_gradients(distance, student.double(), teacher.double())
    bound = 1e-5 * double.abs() + 5e-6 * (1 + student.abs().max().clamp_min(1).log())
    assert ((single.double() - double).abs() <= bound).all()


@given(
    pair=PAIRS,
    columns=st.integers(0, 3),
    student_gradient=st.booleans(),
    teacher_gradient=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_closed_form_is_what_autograd_gives(
    distance: Distance,
    pair: tuple[Tensor, Tensor],
    columns: int,
    student_gradient: bool,
    teacher_gradient: bool,
    dtype: torch.dtype,
) -> None:
    ruled_out = torch.full((len(pair[0]), columns), -math.inf, dtype=dtype)
    student, teacher = (torch.cat([side.to(dtype), ruled_out], 1) for side in pair)
    values, *gradients = value_and_gradients(distance, student, teacher)
    sides = [
        Distribution(log_probs=side.log_softmax(-1), complete=complete)
        for side in (student, teacher)
        for complete in [columns == 0]
    ]
    before = [side.log_probs.clone() for side in sides]
    found = distance.value_and_gradients(*sides, student_gradient=student_gradient, teacher_gradient=teacher_gradient)
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-9}[dtype]
    # A divergence of huge logits is huge, and so is its rounding.
    scale = 1 + max(values.abs().max().item(), 1)
    torch.testing.assert_close(found.values, values, rtol=tolerance, atol=tolerance * scale)
    assert (found.values >= 0).all()
    rows = without_ties(student.double(), teacher.double())
    for asked, ours, theirs in zip(
        (student_gradient, teacher_gradient), (found.student, found.teacher), gradients, strict=True
    ):
        assert (ours is not None) == asked
        if ours is not None:
            torch.testing.assert_close(ours[rows], theirs[rows], rtol=tolerance, atol=tolerance * scale)
    assert all(torch.equal(side.log_probs, original) for side, original in zip(sides, before, strict=True))
