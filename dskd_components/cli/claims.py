"""What a component says of itself, in a few words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import ValidationError

from dskd_components.components.aligner import Aligner
from dskd_components.components.distance import Distance
from dskd_components.components.projector import Projector
from dskd_components.components.space import Space

if TYPE_CHECKING:
    from dskd_components.components.component import Component


def claims_of(component: type[Component]) -> list[str]:
    """Return what a component claims with its default options, a few words for each claim.

    Args:
        component: a registered class.

    Examples:
        >>> from dskd_components.distances import JS
        >>> claims_of(JS)
        ['symmetric', '≤ log 2', 'closed form']
    """
    try:
        instance = component.model_validate({})
    except ValidationError:
        return ["depend on required options"]
    except Exception as error:  # a plugin's own code: a list that fails for one of them helps nobody
        return [f"not known: {type(error).__name__}: {error}"]
    match instance:
        case Distance():
            return _of_distance(instance)
        case Aligner():
            return _of_aligner(instance)
        case Projector():
            return ["needs the heads"] if instance.needs_heads else []
        case Space():
            return [f"{instance.side} rows", *([instance.projector] if instance.projector else [])]
    return []


def _of_distance(distance: Distance) -> list[str]:
    claims = {
        "metric": distance.is_metric,
        "symmetric": distance.symmetric and not distance.is_metric,
        _bound(distance.upper_bound): distance.upper_bound is not None,
        "may be 0 between unequals": not distance.zero_iff_equal,
        "gradient is not the derivative": not distance.gradient_is_derivative,
        "closed form": type(distance).has_closed_form(),
    }
    return [claim for claim, made in claims.items() if made]


def _bound(bound: float | None) -> str:
    if bound is None:
        return "unbounded"
    for of, name in ((2.0, "log 2"), (math.e, "1")):
        if math.isclose(bound, math.log(of)):
            return f"≤ {name}"
    return f"≤ {bound:.4g}"


def _of_aligner(aligner: Aligner) -> list[str]:
    claims = {
        "one tokenizer": aligner.same_tokenizer,
        "two tokenizers": not aligner.same_tokenizer,
        "depends on the batch": not aligner.split_invariant,
    }
    return [claim for claim, made in claims.items() if made]
