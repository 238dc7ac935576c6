"""Laws that a distance may claim, symmetry, bounds, being a metric, and laws about its options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from hypothesis import strategies as st

from dskd_components.testing.expectation import expect, expect_close
from dskd_components.testing.law import law
from dskd_components.testing.laws.component import expect_effects, is_component, one_case
from dskd_components.testing.laws.distance.evaluation import (
    DTYPES,
    DistanceFunction,
    pairs,
    values_and_gradients,
    values_at,
)
from dskd_components.testing.printing import number
from dskd_components.testing.strategies.logits import normal, one_hot, sets_of_logits

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.distance import Distance


def _claims_a_bound(distance: Any) -> bool:
    return getattr(distance, "upper_bound", None) is not None


@law("distance", cases=pairs(), claimed_by=lambda distance: getattr(distance, "symmetric", False))
def symmetric(distance: DistanceFunction, student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Student and teacher can be exchanged.

    Claimed by ``symmetric``.
    """
    forth = values_at(distance, student_logits, teacher_logits)
    back = values_at(distance, teacher_logits, student_logits)
    expect_close(back, forth, "the distance with student and teacher exchanged", rtol=1e-6, atol=1e-9)


@law("distance", cases=pairs(dtype=DTYPES), claimed_by=_claims_a_bound)
def bounded(distance: Any, student_logits: Tensor, teacher_logits: Tensor, dtype: torch.dtype) -> None:
    """Values do not exceed the upper bound.

    Claimed by ``upper_bound``. A logarithm to another base shows here.
    """
    bound = distance.upper_bound
    found = values_at(distance, student_logits.to(dtype), teacher_logits.to(dtype))
    above = found > bound * (1 + 1e-5)
    if above.any():
        row = int(above.nonzero()[0])
        expect(False, f"the distance of row {row}: expected at most {number(bound)}, found {number(found[row])}.")


@law(
    "distance",
    cases=lambda _: st.fixed_dictionaries({"vocabulary": st.integers(2, 7)}),
    claimed_by=_claims_a_bound,
    at_most=6,
)
def the_bound_is_reached(distance: Any, vocabulary: int) -> None:
    """Two distributions that have nothing in common are as far apart as the upper bound says.

    Claimed by ``upper_bound``: it is the least bound there is. Exchanged arguments of a skewed divergence show here.
    """
    student, teacher = one_hot(0, vocabulary)[None], one_hot(1, vocabulary)[None]
    found = values_at(distance, student, teacher)
    bound = torch.full_like(found, distance.upper_bound)
    expect_close(found, bound, "the distance of two different certainties", rtol=1e-2)


@law(
    "distance",
    cases=lambda _: st.fixed_dictionaries({"three": sets_of_logits(3)}),
    claimed_by=lambda distance: getattr(distance, "is_metric", False),
)
def metric(distance: DistanceFunction, three: list[Tensor]) -> None:
    """A detour is never shorter: the triangle inequality holds, and the distance is symmetric.

    Claimed by ``is_metric``, which presumes ``symmetric`` and ``zero_iff_equal``.
    """
    for claim in ("symmetric", "zero_iff_equal"):
        expect(bool(getattr(distance, claim, True)), f"is_metric presumes {claim}, which is declared False.")
    first, middle, last = three
    straight = values_at(distance, first, last)
    detour = values_at(distance, first, middle) + values_at(distance, middle, last)
    longer = straight > detour * (1 + 1e-6) + 1e-7
    if longer.any():
        row = int(longer.nonzero()[0])
        expect(
            False,
            f"row {row}: expected at most {number(detour[row])}, the length of the detour over the second "
            f"distribution, found {number(straight[row])}.",
        )
    back = values_at(distance, last, first)
    expect_close(back, straight, "the distance in the other direction", rtol=1e-6, atol=1e-9)


DONE_AROUND_IT: Final = {"temperature", "tau", "reduction", "ignore_index", "mask"}
"""What the loss does around a distance, once and for all of them."""


@law("distance", cases=one_case, claimed_by=is_component, at_most=1)
def no_temperature_inside(distance: Distance) -> None:
    """No option repeats what the loss does around a distance: temperature, mask, reduction.

    Applied twice, it is applied wrongly, and differently for each distance.
    """
    repeated = sorted(DONE_AROUND_IT & set(type(distance).model_fields))
    expect(not repeated, f"expected no option named {', '.join(sorted(DONE_AROUND_IT))}, found {', '.join(repeated)}.")


@law("distance", cases=one_case, claimed_by=is_component, at_most=1)
def options_have_an_effect(distance: Distance) -> None:
    """Another value of an option gives another distance.

    An option that does nothing has been forgotten, or lost on the way.
    """
    student, teacher = normal(0, 2, 8, 6)
    expect_effects(distance, lambda other: [*values_and_gradients(other, student, teacher), other.upper_bound])
