"""Laws about the gradients of a distance: what the student learns from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from hypothesis import strategies as st

from dskd_components.testing.expectation import expect, expect_close, expect_finite
from dskd_components.testing.law import law
from dskd_components.testing.laws.building import function_of
from dskd_components.testing.laws.distance.evaluation import (
    DTYPES,
    DistanceFunction,
    apart,
    generic_pairs,
    pairs,
    tied,
    values_and_gradients,
)
from dskd_components.testing.strategies.logits import logits

if TYPE_CHECKING:
    from torch import Tensor

STEP: Final = 1e-6
"""How far a logit is moved to measure a derivative."""


@law("distance", cases=pairs(dtype=DTYPES), always=tied(dtype=torch.float32))
def finite_gradients(
    distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor, dtype: torch.dtype
) -> None:
    """Gradients of both sides are finite for all finite logits.

    A finite value may have a NaN gradient: the square root of 0 has, and so has ``where`` around a division by 0.
    """
    _, *gradients = values_and_gradients(distance, student_logits.to(dtype), teacher_logits.to(dtype))
    for side, gradient in zip(("student", "teacher"), gradients, strict=True):
        expect_finite(gradient, f"the gradient of the {side}'s logits")


@law("distance", cases=lambda _: st.fixed_dictionaries({"logits": logits(), "dtype": DTYPES}))
def zero_gradient_at_equality(distance: DistanceFunction, logits: Tensor, dtype: torch.dtype) -> None:
    """Where student and teacher are equal, nothing pulls at the student.

    Equality is the least distance. A distance with a kink there, as total variation, has 0 among its subgradients.
    """
    same = logits.to(dtype)
    _, gradient, _ = values_and_gradients(distance, same, same)
    expect_close(gradient, torch.zeros_like(gradient), "the gradient of the student's logits", atol=1e-5)


@law("distance", cases=generic_pairs(), at_most=20)
def the_student_learns(distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Where student and teacher differ, a gradient reaches the student.

    A ``detach`` too many, or a step function, gives values that look right and train nothing.
    """
    _, gradient, _ = values_and_gradients(distance, student_logits, teacher_logits)
    silent = apart(student_logits, teacher_logits) & (gradient.abs().sum(-1) < 1e-12)
    if silent.any():
        expect(
            False, f"the gradient of the student's logits: expected some, found none in row {int(silent.nonzero()[0])}."
        )


@law(
    "distance",
    cases=generic_pairs(),
    claimed_by=lambda distance: getattr(distance, "gradient_is_derivative", True),
    at_most=10,
)
def gradient_is_the_derivative(distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor) -> None:
    """The gradients are the derivatives of the values, for the student's logits and for the teacher's.

    Claimed by ``gradient_is_derivative``; a distance that holds a part of itself constant says False. The teacher's
    side matters as well: it may be the projected student, or carry the gradient of a projector.
    """
    _, of_student, of_teacher = values_and_gradients(distance, student_logits, teacher_logits)
    for side, gradient in (("student", of_student), ("teacher", of_teacher)):
        measured = _measured_gradient(distance, student_logits, teacher_logits, side)
        expect_close(gradient, measured, f"the gradient of the {side}'s logits", rtol=1e-5, atol=1e-7)


def _measured_gradient(distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor, side: str) -> Tensor:
    """Return ``[N, V]``: central differences, each logit of each row moved on its own."""
    rows, vocabulary = student_logits.shape
    steps = STEP * torch.eye(vocabulary, dtype=student_logits.dtype)
    moves = torch.stack([steps, -steps])[:, :, None, :].expand(-1, -1, rows, -1)
    moved = {"student": student_logits.expand_as(moves), "teacher": teacher_logits.expand_as(moves)}
    moved[side] = moved[side] + moves
    flat = (moved[name].reshape(-1, vocabulary).log_softmax(-1) for name in ("student", "teacher"))
    with torch.no_grad():
        ahead, behind = function_of(distance)(*flat).reshape(2, vocabulary, rows)
    measured: Tensor = ((ahead - behind) / (2 * STEP)).T
    return measured
