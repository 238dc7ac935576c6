"""Laws about gradients that a distance offers in closed form."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from hypothesis import strategies as st

from dskd_components.components.distance import Distance
from dskd_components.components.distribution import Distribution
from dskd_components.testing.expectation import expect, expect_close, expect_equal
from dskd_components.testing.law import law
from dskd_components.testing.laws.distance.evaluation import (
    DTYPES,
    differentiable_rows,
    pairs,
    tied,
    values_and_gradients,
    wide,
)

if TYPE_CHECKING:
    from torch import Tensor


def _offers_closed_form(distance: Any) -> bool:
    return isinstance(distance, Distance) and distance.has_closed_form()


@law(
    "distance",
    cases=pairs(columns=st.integers(0, 2), dtype=DTYPES),
    claimed_by=_offers_closed_form,
    always=tied(columns=1, dtype=torch.float32) + wide(columns=1, dtype=torch.float64),
)
def closed_form_is_the_gradient(
    distance: Distance, student_logits: Tensor, teacher_logits: Tensor, columns: int, dtype: torch.dtype
) -> None:
    """``value_and_gradients`` gives the values and gradients that differentiating the distance gives.

    Claimed by overriding it. The tiled engine takes this way, so the two must not part; with tokens that are ruled
    out on both sides, and for either side alone, as well.
    """
    student_logits, teacher_logits = (_widened(side.to(dtype), columns) for side in (student_logits, teacher_logits))
    values, *gradients = values_and_gradients(distance, student_logits, teacher_logits)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-5
    # A divergence of huge logits is huge, and so is its rounding.
    scale = 1 + float(values.abs().max().clamp_min(1))
    rows = differentiable_rows(distance, student_logits.double(), teacher_logits.double())
    for asked in ((True, True), (True, False), (False, True), (False, False)):
        found = distance.value_and_gradients(
            *_distributions(student_logits, teacher_logits, all_finite=columns == 0),
            student_gradient=asked[0],
            teacher_gradient=asked[1],
        )
        expect_close(found.values, values, "the value in closed form", rtol=tolerance, atol=tolerance * scale)
        expect(found.values >= 0, f"the value in closed form: expected 0 or more, found {found.values.tolist()}.")
        for side, wanted, gradient, expected in zip(
            ("student", "teacher"), asked, (found.student, found.teacher), gradients, strict=True
        ):
            given = gradient is not None
            expect(given == wanted, f"the {side}'s gradient: asked for is {wanted}, found that given is {given}.")
            if gradient is not None:
                what = f"the gradient of the {side}'s logits in closed form"
                expect_close(gradient[rows], expected[rows], what, rtol=tolerance, atol=tolerance * scale)


@law(
    "distance",
    cases=pairs(columns=st.integers(0, 2), cut=st.integers(1, 6), dtype=DTYPES),
    claimed_by=lambda distance: getattr(distance, "sums_over_vocabulary", False),
    always=tied(columns=1, cut=2, dtype=torch.float32),
)
def parts_of_the_vocabulary_add_up(
    distance: Distance, student_logits: Tensor, teacher_logits: Tensor, columns: int, cut: int, dtype: torch.dtype
) -> None:
    """The distance is the sum of what ``over_part`` gives for the parts of a vocabulary, and so are its gradients.

    Claimed by ``sums_over_vocabulary``. Each part has its probabilities in the whole. Where a head is cut over ranks,
    each rank computes its own part; a sort, a root of the sum or a normalisation inside breaks this.
    """
    student_logits, teacher_logits = (_widened(side.to(dtype), columns) for side in (student_logits, teacher_logits))
    values, *gradients = values_and_gradients(distance, student_logits, teacher_logits)
    whole = [side.log_softmax(-1) for side in (student_logits, teacher_logits)]
    place = cut % (student_logits.shape[1] - columns - 1) + 1  # both parts have a token that can occur
    parts = []
    for part in (slice(0, place), slice(place, None)):
        sides = [Distribution(log_probs=side[:, part], all_finite=columns == 0) for side in whole]
        parts.append(distance.over_part(*sides, student_derivative=True, teacher_derivative=True))
        alone = distance.over_part(*sides, student_derivative=False, teacher_derivative=False)
        expect_close(alone.values, parts[-1].values, "the value of a part without derivatives", rtol=1e-5, atol=1e-6)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-5
    scale = 1 + float(values.abs().max().clamp_min(1))
    found = parts[0].values + parts[1].values
    expect_close(found, values, "the sum of the parts' values", rtol=tolerance, atol=tolerance * scale)
    rows = differentiable_rows(distance, student_logits.double(), teacher_logits.double())
    for side, log_probs, expected in zip(("student", "teacher"), whole, gradients, strict=True):
        of_parts = [getattr(part, side) for part in parts]
        expect(all(part is not None for part in of_parts), f"the {side}'s derivative: expected one, found none.")
        derivative = torch.cat(of_parts, 1)
        gradient = derivative - log_probs.exp() * derivative.sum(-1, keepdim=True)
        what = f"the gradient of the {side}'s logits, from the parts' derivatives"
        expect_close(gradient[rows], expected[rows], what, rtol=tolerance, atol=tolerance * scale)


@law("distance", cases=pairs(), claimed_by=_offers_closed_form)
def closed_form_leaves_its_arguments_alone(distance: Distance, student_logits: Tensor, teacher_logits: Tensor) -> None:
    """``value_and_gradients`` changes no argument, and its gradients are new tensors that the caller may overwrite.

    Claimed by overriding it. Distributions are shared by several terms.
    """
    sides = _distributions(student_logits, teacher_logits, all_finite=True)
    before = [part.clone() for side in sides for part in (side.log_probs, side.probs)]
    found = distance.value_and_gradients(*sides, student_gradient=True, teacher_gradient=True)
    for gradient in (found.student, found.teacher):
        if gradient is not None:
            gradient.fill_(math.nan)
    names = [f"{side}.{part}" for side in ("student", "teacher") for part in ("log_probs", "probs")]
    now = [part for side in sides for part in (side.log_probs, side.probs)]
    for name, after, original in zip(names, now, before, strict=True):
        expect_equal(after, original, f"{name} after the call, its gradients overwritten")


def _widened(logits: Tensor, columns: int) -> Tensor:
    return torch.cat([logits, torch.full((len(logits), columns), -math.inf, dtype=logits.dtype)], 1)


def _distributions(student_logits: Tensor, teacher_logits: Tensor, *, all_finite: bool) -> list[Distribution]:
    return [
        Distribution(log_probs=side.log_softmax(-1), all_finite=all_finite) for side in (student_logits, teacher_logits)
    ]
