"""The field type of a spec that holds an engine, given as an instance, a name, or a mapping with a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, SerializeAsAny

from dskd_components.components.component import did_you_mean
from dskd_components.engines.eager import Eager
from dskd_components.engines.engine import Engine
from dskd_components.engines.tiled import Tiled

ENGINES: Final[Mapping[str, type[Tiled | Eager]]] = {"tiled": Tiled, "eager": Eager}


def _read(value: object) -> Engine:
    if isinstance(value, Engine):
        return value
    if isinstance(value, str):
        return _engine_class(value)()
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return _engine_class(value["name"]).model_validate(value)
    raise ValueError(f"expected an engine: an instance, a name, or a mapping with a name and options, got {value!r}")


def _engine_class(name: str) -> type[Tiled | Eager]:
    if name not in ENGINES:
        hint = did_you_mean(name, list(ENGINES))
        raise ValueError(f"unknown engine {name!r}{hint}; the engines are {', '.join(ENGINES)}.")
    return ENGINES[name]


AnyEngine = Annotated[
    SerializeAsAny[Engine],
    BeforeValidator(_read, json_schema_input_type=Literal["tiled", "eager"] | Tiled | Eager),
]
