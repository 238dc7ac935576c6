"""Field types for specs: a field that holds a component, given as an instance, a name, or a mapping with a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic_core import core_schema

from dskd_components.contracts.aligner import Aligner
from dskd_components.contracts.component import Component
from dskd_components.contracts.distance import Distance
from dskd_components.contracts.projector import Projector
from dskd_components.contracts.space import Space
from dskd_components.registry.kinds import KINDS
from dskd_components.registry.lookup import default_registry, list_components

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue


@dataclass(frozen=True)
class ComponentField:
    """Tells pydantic how to read, write and describe a field that holds a component of one kind."""

    kind: str

    def __get_pydantic_core_schema__(self, source: type[Any], handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Read with `_resolve`; write the component's own fields, name first."""
        return core_schema.no_info_plain_validator_function(
            self._resolve,
            serialization=core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True),
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the choice among all installed components, each either by name or with its options."""
        classes = [info.component for info in list_components(self.kind)]
        by_options = [handler(cls.__pydantic_core_schema__) for cls in classes]
        return {"anyOf": [{"enum": [cls.component_name() for cls in classes]}, *by_options]}

    def _resolve(self, value: object) -> Component:
        base = KINDS[self.kind].base
        if isinstance(value, base):
            return value
        if isinstance(value, str):
            return default_registry().component_class(self.kind, value).model_validate({})
        if isinstance(value, Mapping):
            return self._from_mapping(value)
        if isinstance(value, Component):
            raise ValueError(f"expected a {self.kind}, got the {value.kind} {value.name!r}")
        hint = f"; did you mean {value.__name__}()?" if isinstance(value, type) else ""
        raise ValueError(
            f"expected a {self.kind}: an instance, a name, or a mapping with a name and options, got "
            f"{type(value).__name__} {value!r}{hint}"
        )

    def _from_mapping(self, value: Mapping[Any, Any]) -> Component:
        name = value.get("name")
        if not isinstance(name, str):
            raise ValueError(f"expected a mapping with the {self.kind}'s name under 'name', got {dict(value)!r}")
        return default_registry().component_class(self.kind, name).model_validate(value)


def _dump(component: Component, info: core_schema.SerializationInfo) -> dict[str, Any]:
    return component.model_dump(mode=info.mode, exclude_none=False)


AnyDistance = Annotated[Distance, ComponentField("distance")]
AnyAligner = Annotated[Aligner, ComponentField("aligner")]
AnyProjector = Annotated[Projector, ComponentField("projector")]
AnySpace = Annotated[Space, ComponentField("space")]
