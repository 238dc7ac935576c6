"""Laws about the values of a distance: what any divergence between distributions must be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from hypothesis import strategies as st

from dskd_components.testing.expectation import expect, expect_close, expect_finite
from dskd_components.testing.law import law
from dskd_components.testing.laws.distance.evaluation import (
    DTYPES,
    DistanceFunction,
    apart,
    generic_pairs,
    pairs,
    values_at,
)
from dskd_components.testing.printing import number
from dskd_components.testing.strategies.logits import logits

if TYPE_CHECKING:
    from torch import Tensor


@law("distance", cases=pairs(dtype=DTYPES))
def one_number_a_row(
    distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor, dtype: torch.dtype
) -> None:
    """One number for each row comes back, in the dtype that went in.

    The loss masks, weights and averages rows itself; a mean taken inside cannot be undone.
    """
    found = values_at(distance, student_logits.to(dtype), teacher_logits.to(dtype))
    rows = len(student_logits)
    expect(found.shape == (rows,), f"expected shape [{rows}], one number for each row, found {list(found.shape)}.")
    expect(found.dtype == dtype, f"expected dtype {dtype}, as the arguments have, found {found.dtype}.")


@law("distance", cases=lambda _: st.fixed_dictionaries({"vocabulary": st.integers(1, 4)}), at_most=4)
def no_rows_no_values(distance: DistanceFunction, vocabulary: int) -> None:
    """No rows give no values, and no error.

    A batch in which nothing is scored is an ordinary one.
    """
    nothing = torch.zeros(0, vocabulary, dtype=torch.float64)
    found = values_at(distance, nothing, nothing)
    expect(found.shape == (0,), f"expected shape [0] for no rows, found {list(found.shape)}.")


@law("distance", cases=pairs(dtype=DTYPES))
def finite(distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor, dtype: torch.dtype) -> None:
    """Values are finite for all finite logits, huge ones included.

    One infinite token makes the loss of the whole batch infinite.
    """
    expect_finite(values_at(distance, student_logits.to(dtype), teacher_logits.to(dtype)), "the distance of a row")


@law("distance", cases=pairs(dtype=DTYPES))
def non_negative(
    distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor, dtype: torch.dtype
) -> None:
    """Values are never negative, not even by rounding.

    A negative divergence is the sign of arithmetic that has lost its digits; lift what rounding puts below zero.
    """
    found = values_at(distance, student_logits.to(dtype), teacher_logits.to(dtype))
    below = found < 0
    if below.any():
        row = int(below.nonzero()[0])
        expect(False, f"the distance of row {row}: expected 0 or more, found {number(found[row])}.")


@law("distance", cases=lambda _: st.fixed_dictionaries({"logits": logits(), "dtype": DTYPES}))
def zero_at_equality(distance: DistanceFunction, logits: Tensor, dtype: torch.dtype) -> None:
    """The distance of a distribution from itself is 0.

    Otherwise the loss rewards something else than agreement. It is also where 0/0 hides.
    """
    same = logits.to(dtype)
    found = values_at(distance, same, same.clone())
    expect_close(found, torch.zeros_like(found), "the distance of a row from itself", atol=1e-6)


@law("distance", cases=generic_pairs(), claimed_by=lambda distance: getattr(distance, "zero_iff_equal", True))
def positive_where_different(distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor) -> None:
    """The distance of two distributions that differ is more than 0.

    Claimed by ``zero_iff_equal``. Where it fails, a student can be wrong at no cost.
    """
    found = values_at(distance, student_logits, teacher_logits)
    wrong = apart(student_logits, teacher_logits) & ~(found > 1e-9)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        expect(False, f"the distance of row {row}: the two differ, expected more than 0, found {number(found[row])}.")
