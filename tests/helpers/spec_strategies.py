"""Hypothesis strategies for specs and components, made from the fields of whatever is registered."""

from __future__ import annotations

import copy
import math
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from hypothesis import assume, reject
from hypothesis import strategies as st
from pydantic import ValidationError

from dskd_components import Aligner, Distance, DSKDSpec, Projector, Schedule, Space, list_components
from dskd_components.components.component import Frozen, FrozenMapping
from dskd_components.components.fields import TrainedTarget
from dskd_components.engines.eager import Eager
from dskd_components.engines.engine import Engine
from dskd_components.engines.tiled import Tiled
from dskd_components.spec.schedules import CosineSchedule, LinearSchedule, PiecewiseSchedule, WeightField

if TYPE_CHECKING:
    from typing import TypeVar

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from dskd_components.components import Component
    from dskd_components.spec.dskd_spec import PairSpec

    Pair = TypeVar("Pair", bound=PairSpec)


@cache
def fields_of(cls: type[BaseModel]) -> dict[str, st.SearchStrategy[Any]]:
    return {name: values(field) for name, field in cls.model_fields.items()}


def values(field: FieldInfo) -> st.SearchStrategy[Any]:
    """Values that a field accepts, from its type and its bounds."""
    annotation: Any = field.annotation
    for marker in field.metadata:
        if isinstance(marker, WeightField):
            return weights(marker.at_most)
        if isinstance(marker, TrainedTarget):
            return components("projector").filter(lambda projector: not projector.needs_frozen_target)  # type: ignore[attr-defined]
        if isinstance(marker, Frozen):
            return st.just(FrozenMapping({}))  # which weights there may be depends on the spaces: see `weighted`
    if field.metadata:
        annotation = Annotated[(annotation, *field.metadata)]
    return st.from_type(annotation).filter(lambda value: not isinstance(value, float) or math.isfinite(value))


def weights(at_most: float | None = None) -> st.SearchStrategy[float | Schedule]:
    """Numbers and schedules of numbers up to a limit."""
    return st.floats(0, at_most or 100) | schedules(at_most or 100)


@st.composite
def schedules(draw: st.DrawFn, at_most: float = 100) -> Schedule:
    """Schedules of any kind."""
    values = st.floats(0, at_most)
    steps = sorted(draw(st.sets(st.integers(0, 1000), min_size=1, max_size=5)))
    points = tuple((step, draw(values)) for step in steps)
    options = {"start": draw(values), "end": draw(values), "steps": draw(st.integers(1, 500)), "begin": steps[0]}
    interpolation = draw(st.sampled_from(["linear", "stairs"]))
    return draw(
        st.sampled_from(
            [
                LinearSchedule(**options),
                CosineSchedule(**options),
                PiecewiseSchedule(points=points, interpolation=interpolation),
            ]
        )
    )


@st.composite
def models(draw: st.DrawFn, cls: type[BaseModel], **given: st.SearchStrategy[Any]) -> Any:
    """Instances of a class with any of its fields set."""
    fields = fields_of(cls) | given
    required = {name: fields.pop(name) for name, field in cls.model_fields.items() if field.is_required()}
    chosen = draw(st.fixed_dictionaries(required, optional=fields))
    try:
        return cls(**chosen)
    except ValidationError:  # a condition over several fields, or one that no bound expresses
        reject()


def components(kind: str) -> st.SearchStrategy[Component]:
    """Instances of every registered component of one kind."""
    return st.sampled_from([info.component for info in list_components(kind)]).flatmap(models)


def lists_of_spaces() -> st.SearchStrategy[tuple[Component, ...]]:
    return st.lists(components("space"), min_size=1, unique_by=lambda space: space.name).map(tuple)


@st.composite
def weighted(draw: st.DrawFn, pairs: st.SearchStrategy[Pair]) -> Pair:
    """The same specs with weights for some of the terms that they have."""
    spec = draw(pairs)
    return spec.replace(weights=draw(weights_for(spec)))


def weights_for(spec: PairSpec) -> st.SearchStrategy[FrozenMapping[float | Schedule]]:
    """Weights for some of a spec's terms."""
    names = [*(name for space in spec.spaces for name in space.terms), *spec.aligner.terms]
    return st.dictionaries(st.sampled_from(names), weights(), max_size=3).map(FrozenMapping)


def specs() -> st.SearchStrategy[DSKDSpec]:
    """Specs over everything registered."""
    return weighted(models(DSKDSpec, spaces=lists_of_spaces()))


def spec_field(name: str, spec: DSKDSpec) -> st.SearchStrategy[Any]:
    """Values of one field that fit the other fields of a spec."""
    if name == "weights":
        return weights_for(spec)
    return lists_of_spaces() if name == "spaces" else values(DSKDSpec.model_fields[name])


for base in (Distance, Aligner, Projector, Space):
    st.register_type_strategy(base, lambda _, kind=base.kind: components(kind))
st.register_type_strategy(Engine, st.sampled_from([Tiled, Eager]).flatmap(models))


@st.composite
def near_documents(draw: st.DrawFn) -> Any:
    """JSON documents of specs with one thing changed, so that about half of them are not specs any more.

    What pydantic converts is left out: numbers in strings, true and false for numbers, 0 and 1 for true and false. So
    is what no schema can say: a schedule's greatest number as ``kd_rate``, the order of its points, and that weights
    are for terms of the spec's own components.
    """
    document = copy.deepcopy(draw(specs()).model_dump(mode="json"))
    anywhere = st.sampled_from([path for path in paths(document) if path])
    *parents, last = draw(anywhere | st.just(("spaces", 0)))
    if {*parents, last} & {"spaces", "aligner"}:
        document["weights"] = {}
    container = document
    for step in parents:
        container = container[step]
    change = draw(st.sampled_from(["replace", "remove", "add", "name", "keep"]))
    if change == "replace":
        numbers: list[Any] = [-1.0, 0.25, 1.5, 3, 20]
        assume(not isinstance(container[last], bool))
        assume(parents[:1] != ["kd_rate"] and "points" not in parents)
        container[last] = draw(
            st.sampled_from([*numbers, None, "", "kl", "student", [], {}, ["student"], {"name": "kl"}])
        )
    elif change == "remove":
        del container[last]
    elif change == "add" and isinstance(container, dict):
        container[draw(st.text(max_size=5))] = draw(st.sampled_from([1.0, "kl", None]))
    elif change == "add":
        container.append(draw(st.sampled_from(["student", "teacher", {"name": "student"}, "kl", 1.0])))
    elif change == "name":
        assume(isinstance(container[last], dict) and "name" in container[last])  # weights have none
        container[last] = container[last]["name"]
    return document


def paths(document: Any, before: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of all values in a JSON document."""
    found = [before]
    if isinstance(document, dict | list):
        items = document.items() if isinstance(document, dict) else enumerate(document)
        for step, value in items:
            found += paths(value, (*before, step))
    return found
