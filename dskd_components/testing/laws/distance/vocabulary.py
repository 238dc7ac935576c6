"""Laws about what must not matter to a distance: where logits lie, how tokens are numbered, what can never be said."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from hypothesis import strategies as st

from dskd_components.testing.expectation import expect_close, expect_finite
from dskd_components.testing.law import law
from dskd_components.testing.laws.distance.evaluation import (
    DistanceFunction,
    differentiable_rows,
    pairs,
    tied,
    values_and_gradients,
    values_at,
    wide,
)
from dskd_components.testing.strategies.logits import SEEDS

if TYPE_CHECKING:
    from torch import Tensor


def _treats_tokens_alike(distance: Any) -> bool:
    return bool(getattr(distance, "treats_tokens_alike", True))


@law("distance", cases=pairs(shift=st.floats(-50, 50, width=16)), always=tied(shift=7.7))
def a_constant_added_to_logits_changes_nothing(
    distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor, shift: float
) -> None:
    """Adding a number to all logits of a side changes neither values nor gradients.

    Only the distributions are compared; a model is free to move its logits.
    """
    values, gradient, _ = values_and_gradients(distance, student_logits, teacher_logits)
    moved, moved_gradient, _ = values_and_gradients(distance, student_logits + shift, teacher_logits - shift)
    expect_close(moved, values, "the distance of the moved rows", rtol=1e-6, atol=1e-8)
    rows = differentiable_rows(distance, student_logits, teacher_logits)
    expect_close(moved_gradient[rows], gradient[rows], "the gradient of the moved rows", rtol=1e-6, atol=1e-8)


@law("distance", cases=pairs(seed=SEEDS), claimed_by=_treats_tokens_alike, always=tied(seed=1) + wide(seed=1))
def token_numbers_do_not_matter(
    distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor, seed: int
) -> None:
    """Numbering the tokens otherwise, alike on both sides, changes nothing.

    Claimed by ``treats_tokens_alike``. Token ids are names. A sort whose ties fall by position, or a cut at a fixed id,
    breaks this.
    """
    order = torch.randperm(
        student_logits.shape[1], generator=torch.Generator(torch.get_default_device()).manual_seed(seed)
    )
    values, gradient, _ = values_and_gradients(distance, student_logits, teacher_logits)
    other, other_gradient, _ = values_and_gradients(distance, student_logits[:, order], teacher_logits[:, order])
    expect_close(other, values, "the distance of the renumbered rows", rtol=1e-6, atol=1e-9)
    rows = differentiable_rows(distance, student_logits, teacher_logits)
    expected = gradient[rows][:, order]
    expect_close(other_gradient[rows], expected, "the gradient of the renumbered rows", rtol=1e-6, atol=1e-9)


@law(
    "distance",
    cases=pairs(columns=st.integers(1, 4), seed=SEEDS),
    claimed_by=_treats_tokens_alike,
    always=tied(columns=2, seed=1),
)
def tokens_ruled_out_on_both_sides_count_for_nothing(
    distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor, columns: int, seed: int
) -> None:
    """Tokens with logits of ``-inf`` on both sides change neither values nor gradients, and have none themselves.

    Claimed by ``treats_tokens_alike``. So padded and masked vocabularies are harmless. A mean over the vocabulary
    breaks this, and ``0 * log 0``, and a large negative number in place of ``-inf``.
    """
    order = torch.randperm(
        student_logits.shape[1] + columns, generator=torch.Generator(torch.get_default_device()).manual_seed(seed)
    )
    ruled_out = torch.full((len(student_logits), columns), -math.inf, dtype=student_logits.dtype)
    values, gradient, _ = values_and_gradients(distance, student_logits, teacher_logits)
    wide, *wide_gradients = values_and_gradients(
        distance,
        torch.cat([student_logits, ruled_out], 1)[:, order],
        torch.cat([teacher_logits, ruled_out], 1)[:, order],
    )
    expect_close(wide, values, "the distance of the wider rows", rtol=1e-6, atol=1e-9)
    for side, found in zip(("student", "teacher"), wide_gradients, strict=True):
        expect_finite(found, f"the gradient of the {side}'s wider rows")
    expected = torch.cat([gradient, torch.zeros_like(ruled_out)], 1)[:, order]
    rows = differentiable_rows(distance, student_logits, teacher_logits)
    expect_close(wide_gradients[0][rows], expected[rows], "the gradient of the wider rows", rtol=1e-6, atol=1e-9)


@law(
    "distance",
    cases=pairs(token=st.integers(0, 6), parts=st.integers(2, 3)),
    claimed_by=lambda distance: getattr(distance, "refinement_invariant", False),
)
def refinement_invariance(
    distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor, token: int, parts: int
) -> None:
    """Splitting a token into equally likely parts, alike on both sides, changes nothing.

    Claimed by ``refinement_invariant``; it holds for every f-divergence and Rényi divergence. A temperature inside
    breaks it, and so does a missing factor of a probability.
    """
    values = values_at(distance, student_logits, teacher_logits)
    split = values_at(distance, *(_split(side, token, parts) for side in (student_logits, teacher_logits)))
    expect_close(split, values, "the distance of the rows with a split token", rtol=1e-6, atol=1e-8)


def _split(logits: Tensor, token: int, parts: int) -> Tensor:
    column = logits[:, token % logits.shape[1], None]
    others = torch.arange(logits.shape[1]) != token % logits.shape[1]
    return torch.cat([logits[:, others], (column - math.log(parts)).expand(-1, parts)], 1)
