"""What components claim and take: their class variables and options as rows of a table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import ValidationError

from dskd_components.components.aligner import Aligner
from dskd_components.components.column_reader import ColumnReader, columns_read_by
from dskd_components.components.component import Component
from dskd_components.components.distance import Distance
from dskd_components.components.fields import ComponentField
from dskd_components.components.projector import Projector
from dskd_components.components.schedule import Schedule
from dskd_components.components.space import Space

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic.fields import FieldInfo

    from dskd_components.models.states import Side


SIDES: Final[tuple[Side, Side]] = ("student", "teacher")


def claims_of(component: type[Component]) -> list[str]:
    """Return what a component claims with its default options, a few words for each claim.

    Args:
        component: a registered class.

    Examples:
        >>> from dskd_components.distances import JS
        >>> claims_of(JS)
        ['symmetric', '≤ log 2', 'closed form']
    """
    if issubclass(component, Schedule):
        return []
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
            needs = {
                "needs the heads": instance.needs_heads,
                "of the student to the teacher": instance.needs_frozen_target,
            }
            return [need for need, is_so in needs.items() if is_so]
        case Space():
            return _of_space(instance)
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
        "reads texts": aligner.makes_groups,
        "depends on the batch": not aligner.split_invariant,
    }
    return [*(claim for claim, made in claims.items() if made), *_columns(aligner)]


def _columns(reader: ColumnReader) -> list[str]:
    """Name what a component reads of batches beside tokens, each column once for both sides."""
    names = dict.fromkeys(name for side in SIDES for name in columns_read_by(reader, side))
    return [f"reads {', '.join(names)}"] if names else []


def _of_space(space: Space) -> list[str]:
    demands = {
        "needs a hard alignment": space.needs_hard_alignment,
        f"needs shared tokens, {space.min_shared_tokens} or more": space.min_shared_tokens > 0,
    }
    projector = [space.projector] if space.projector else []
    return [f"{space.side} rows", *projector, *(demand for demand, made in demands.items() if made), *_columns(space)]


BOUNDS: Final = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}

WORDS: Final = ((None, "none"), (True, "yes"), (False, "no"))


@dataclass(frozen=True)
class Option:
    """One option of a component.

    Args:
        name: of the field.
        type: what it takes, with its bounds.
        default: what it is otherwise, or ``"required"``.
        meaning: its description.
    """

    name: str
    type: str
    default: str
    meaning: str


def options_of(component: type[Component]) -> list[Option]:
    """Return every option of a component class; its name is none.

    Args:
        component: a registered class.

    Examples:
        >>> from dskd_components.distances import SkewKL
        >>> [option] = options_of(SkewKL)
        >>> option.name, option.type, option.default
        ('alpha', 'float (above 0, below 1)', '0.1')
    """
    fields = {name: field for name, field in component.model_fields.items() if name != "name"}
    return [
        Option(name, _type(field), _default(field), " ".join((field.description or "").split()))
        for name, field in fields.items()
    ]


def _type(field: FieldInfo) -> str:
    return _with_bounds(_type_text(field.annotation), field.metadata)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=False)
    if field.default_factory is not None:
        return "made anew"
    if isinstance(default, Component):
        return default.name
    return next((word for value, word in WORDS if default is value), str(default))


def _type_text(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin is Annotated:
        return _with_bounds(_type_text(arguments[0]), arguments[1:])
    if origin in (Union, UnionType):
        return " or ".join(map(_type_text, arguments))
    if annotation is NoneType:
        return "none"
    if annotation is bool:
        return "yes or no"
    name = getattr(origin or annotation, "__name__", str(annotation))
    inner = [_type_text(argument) for argument in arguments if argument is not ...]
    return f"{name} of {', '.join(inner)}" if inner else name


def _with_bounds(text: str, metadata: Iterable[Any]) -> str:
    """Add the bounds that pydantic keeps beside a type, or the kind of component that the type stands for."""
    bounds = []
    for item in metadata:
        if isinstance(item, ComponentField):
            return item.kind
        for bound in [item, *getattr(item, "metadata", [])]:
            bounds += [f"{word} {getattr(bound, end):g}" for end, word in BOUNDS.items() if _has(bound, end)]
    return f"{text} ({', '.join(bounds)})" if bounds else text


def _has(bound: Any, end: str) -> bool:
    return isinstance(getattr(bound, end, None), int | float)
