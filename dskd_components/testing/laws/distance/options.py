"""Laws about the options of a distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from hypothesis import strategies as st

from dskd_components.components.component import Component
from dskd_components.testing.expectation import expect
from dskd_components.testing.law import law
from dskd_components.testing.laws.distance.evaluation import values_at
from dskd_components.testing.strategies.logits import normal
from dskd_components.testing.variants import other_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dskd_components.components.distance import Distance

DONE_AROUND_IT: Final = {"temperature", "tau", "reduction", "ignore_index", "mask"}
"""What the loss does around a distance, once and for all of them."""


def _is_component(distance: Any) -> bool:
    return isinstance(distance, Component)


def _one_case(_distance: Any) -> st.SearchStrategy[Mapping[str, Any]]:
    return st.just({})


@law("distance", cases=_one_case, claimed_by=_is_component, at_most=1)
def no_temperature_inside(distance: Distance) -> None:
    """No option repeats what the loss does around a distance: temperature, mask, reduction.

    Applied twice, it is applied wrongly, and differently for each distance.
    """
    repeated = sorted(DONE_AROUND_IT & set(type(distance).model_fields))
    expect(not repeated, f"expected no option named {', '.join(sorted(DONE_AROUND_IT))}, found {', '.join(repeated)}.")


@law("distance", cases=_one_case, claimed_by=_is_component, at_most=1)
def options_have_an_effect(distance: Distance) -> None:
    """Another value of an option gives another distance.

    An option that does nothing has been forgotten, or lost on the way.
    """
    student, teacher = normal(0, 2, 8, 6)
    values = values_at(distance, student, teacher)
    effects: dict[str, bool] = {}
    for option, other in other_values(distance):
        changed = not torch.equal(values_at(other, student, teacher), values)  # type: ignore[arg-type]
        effects[option] = effects.get(option, False) or changed
    idle = [option for option, effect in effects.items() if not effect]
    expect(not idle, f"expected an effect of every option, found none of {', '.join(idle)}.")
