"""Laws about a distance as a function: rows, arguments, repetition, precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dskd_components.testing.expectation import expect, expect_close, expect_equal
from dskd_components.testing.law import law
from dskd_components.testing.laws.building import function_of
from dskd_components.testing.laws.distance.evaluation import (
    DistanceFunction,
    apart,
    generic_pairs,
    pairs,
    tied,
    values_and_gradients,
    values_at,
)
from dskd_components.testing.printing import number
from dskd_components.testing.strategies.logits import SEEDS

if TYPE_CHECKING:
    from torch import Tensor


@law("distance", cases=pairs(), always=tied())
def rows_are_independent(distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor) -> None:
    """A row has the same value and gradient whichever rows are beside it.

    So a batch equals its micro-batches, and rows can be computed a few at a time.
    """
    together, gradient, _ = values_and_gradients(distance, student_logits, teacher_logits)
    for row in range(len(student_logits)):
        alone, gradient_alone, _ = values_and_gradients(
            distance, student_logits[row : row + 1], teacher_logits[row : row + 1]
        )
        expect_close(alone[0], together[row], f"the distance of row {row} alone")
        expect_close(gradient_alone[0], gradient[row], f"the gradient of row {row} alone")


@law("distance", cases=pairs())
def arguments_are_not_changed(distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor) -> None:
    """The tensors that a distance is given are as they were.

    They are used again: by other terms of the loss, and by the backward pass.
    """
    student, teacher = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    before = student.clone(), teacher.clone()
    with torch.no_grad():
        function_of(distance)(student, teacher)
    expect_equal(student, before[0], "student_log_probs after the call")
    expect_equal(teacher, before[1], "teacher_log_probs after the call")


@law("distance", cases=pairs(seed=SEEDS))
def the_same_arguments_give_the_same_value(
    distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor, seed: int
) -> None:
    """Values repeat exactly, whatever the state of the random number generator, and leave that state alone.

    Otherwise no run can be repeated, and the tiled and the eager loss part.
    """
    with torch.random.fork_rng(devices=[]):
        first = values_at(distance, student_logits, teacher_logits)
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        second = values_at(distance, student_logits, teacher_logits)
        untouched = torch.equal(state, torch.get_rng_state())
    expect_equal(second, first, "the distance at the second call")
    expect(untouched, "the random number generator: expected its state to be left alone, found it moved.")


@law("distance", cases=pairs())
def float32_is_near_float64(distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor) -> None:
    """In float32, which training uses, values are near those of float64.

    Differences of nearly equal numbers, and logarithms of numbers near 1, lose digits there.
    """
    # The same rounded log-probabilities on both sides: what is compared is the arithmetic, not the rounding before it.
    student, teacher = (side.float().log_softmax(-1) for side in (student_logits, teacher_logits))
    with torch.no_grad():
        found = function_of(distance)(student, teacher)
        exact = function_of(distance)(student.double(), teacher.double())
    largest = student_logits.abs().max().clamp_min(1).log()
    expect_close(
        found,
        exact.float(),
        "the distance in float32",
        rtol=1e-5,
        atol=5e-6 * (1 + float(largest)),
    )


@law("distance", cases=generic_pairs(), at_most=20)
def precision_is_kept_inside(distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor) -> None:
    """In float64, a step that float32 cannot see moves the value, and by no more than such a step can.

    Something inside is computed in a narrower dtype otherwise, and the gradients are as coarse.
    """
    step = 1e-9
    moved = student_logits.clone()
    moved[:, 0] += step
    before = values_at(distance, student_logits, teacher_logits)
    change = (values_at(distance, moved, teacher_logits) - before).abs()
    rows = apart(student_logits, teacher_logits)
    wrong = rows & ((change == 0) | (change > 1e4 * step * (1 + before.abs())))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        expect(
            False,
            f"the distance of row {row}: a logit moves by {step:g}, expected a change of that order, "
            f"found {number(change[row])}.",
        )
