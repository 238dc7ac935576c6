"""The field type of a spec that holds an engine, given as an instance, a name, or a mapping with a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BeforeValidator, SerializeAsAny

from dskd_components.components.component import read_choice
from dskd_components.engines.eager import Eager
from dskd_components.engines.engine import Engine
from dskd_components.engines.tiled import Tiled
from dskd_components.errors import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

ENGINES: Final[Mapping[str, type[Tiled | Eager]]] = {"tiled": Tiled, "eager": Eager}


def _read(value: object) -> Engine:
    return read_choice(value, Engine, "engine", _engine_class)  # type: ignore[type-abstract]


def _engine_class(name: str) -> type[Tiled | Eager]:
    if name not in ENGINES:
        hint = did_you_mean(name, list(ENGINES))
        raise ValueError(f"unknown engine {name!r}{hint}; the engines are {', '.join(ENGINES)}.")
    return ENGINES[name]


AnyEngine = Annotated[
    SerializeAsAny[Engine],
    BeforeValidator(_read, json_schema_input_type=Literal["tiled", "eager"] | Tiled | Eager),
]
