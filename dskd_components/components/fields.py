"""Field types for specs: a component as an instance, a name or a mapping, and weights by the names of terms."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import PydanticInvalidForJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError, core_schema

from dskd_components.components.aligner import Aligner
from dskd_components.components.component import Component, ReadsComponents, read_choice
from dskd_components.components.distance import Distance
from dskd_components.components.hookspecs import KINDS
from dskd_components.components.lookup import default_registry, list_components
from dskd_components.components.projector import Projector
from dskd_components.components.space import Space
from dskd_components.components.terms import AUX_LOSS, CROSS_ENTROPY
from dskd_components.errors import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue


_being_described: ContextVar[frozenset[str]] = ContextVar("_being_described", default=frozenset())


@dataclass(frozen=True)
class ComponentField(ReadsComponents):
    """Tells pydantic how to read, write and describe a field that holds a component of one kind."""

    def __get_pydantic_core_schema__(self, source: type[Any], handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Read with `read`; write the component's own fields, name first."""
        return core_schema.no_info_plain_validator_function(
            self.read,
            serialization=core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True),
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the choice among all installed components, each by its name (if that is enough) or with options.

        Options that are components of the same kind again, as in a mixture of distances, are described by name alone.
        """
        return {"anyOf": self.choices(handler)}

    def choices(self, handler: GetJsonSchemaHandler) -> list[JsonSchemaValue]:
        """Return what may stand in the field, each way for itself.

        Args:
            handler: of the schema that is being made.
        """
        infos = list_components(self.kind)
        names = [info.name for info in infos]
        classes = [info.component for info in infos if names.count(info.name) == 1]
        by_name = [cls.component_name() for cls in classes if _needs_no_options(cls)]
        named: list[JsonSchemaValue] = [{"enum": by_name}] if by_name else []
        being_described = _being_described.get()
        if self.kind in being_described:
            return [*named, *(_by_name_alone(cls.component_name()) for cls in classes)]
        token = _being_described.set(being_described | {self.kind})
        try:
            return [*named, *(_with_options(cls, handler) for cls in classes)]
        finally:
            _being_described.reset(token)

    def read(self, value: object) -> Component:
        """Return the component that a field is given: an instance, a name, or a mapping with a name and options.

        Args:
            value: what the field is given.

        Raises:
            ValueError: it is something else, or no plugin has a component of this name.
        """
        kind = KINDS[self.kind]
        return read_choice(
            value, kind.base, self.kind, lambda name: default_registry().component_class(self.kind, name), _made
        )


@dataclass(frozen=True)
class TrainedTarget:
    """Tells pydantic that the head at the far end of a projector is trained, which not every projector can do with."""

    def __get_pydantic_core_schema__(self, source: type[Any], handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Check after the projector itself has been read."""
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the choice without the projectors that need a head that is frozen."""
        projectors: list[Any] = [info.component for info in list_components("projector")]
        refused = sorted({cls.component_name() for cls in projectors if cls.needs_frozen_target})
        described = handler(schema)
        return {"allOf": [described], "not": {"anyOf": [_named(name) for name in refused]}} if refused else described

    def _checked(self, projector: Projector) -> Projector:
        if projector.needs_frozen_target:
            raise ValueError(
                f"the projector {projector.name!r} is computed once from the head that it projects to and is right for "
                "that head alone; here it is the student's, which training changes. Use a projector that is trained, "
                "such as 'pinv', which starts as the map that keeps the logits"
            )
        return projector


@dataclass(frozen=True)
class DifferentComponents:
    """Tells pydantic that a field holds components of one kind, each name once at most."""

    kind: str

    def __get_pydantic_core_schema__(self, source: type[Any], handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Check after the components themselves have been read."""
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the list, and for each name that no more than one of its items may have it."""
        described = handler(schema)
        names = sorted({info.name for info in list_components(self.kind)})
        once = [{"contains": _named(name), "minContains": 0, "maxContains": 1} for name in names]
        return described | {"allOf": once}

    def _checked(self, components: tuple[Component, ...]) -> tuple[Component, ...]:
        names = [component.name for component in components]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"expected different {self.kind}s, got {twice[0]!r} twice; their terms would share a name")
        return components


def require_terms_in_schema(schema: dict[str, Any]) -> None:
    """Have a JSON Schema of a spec ask for a space, unless the aligner is one that has terms.

    Args:
        schema: changed in place.
    """
    aligners: list[Any] = [info.component for info in list_components("aligner")]
    with_terms = [_named(aligner.component_name()) for aligner in aligners if aligner.terms]
    some_space: dict[str, Any] = {"properties": {"spaces": {"minItems": 1}}}
    of_aligner = {"required": ["aligner"], "properties": {"aligner": {"anyOf": with_terms}}}
    schema["anyOf"] = [some_space, of_aligner] if with_terms else [some_space]


def _made(component: type[Component], options: Mapping[Any, Any]) -> Component:
    """Read a component's options; a validator of a plugin that fails is an error of this field like any other."""
    try:
        return component.model_validate(options)
    except (ValueError, AssertionError):  # what validators are meant to raise, pydantic's own errors among them
        raise
    except Exception as error:
        raise ValueError(
            f"the {component.kind} {component.component_name()!r} ({component.__module__}.{component.__qualname__}) "
            f"failed while it read its options: {type(error).__name__}: {error}"
        ) from error


def _named(name: str) -> JsonSchemaValue:
    return {"anyOf": [{"const": name}, _by_name_alone(name)]}


def _by_name_alone(name: str) -> JsonSchemaValue:
    return {"type": "object", "properties": {"name": {"const": name}}, "required": ["name"]}


def _needs_no_options(component: type[Component]) -> bool:
    return not any(field.is_required() for field in component.model_fields.values())


def _with_options(component: type[Component], handler: GetJsonSchemaHandler) -> JsonSchemaValue:
    """Describe a component where its name is required, because it tells the component from others."""
    try:
        described = handler(component.__pydantic_core_schema__)
    except PydanticInvalidForJsonSchema:  # an option that JSON cannot hold, such as a function
        return _by_name_alone(component.component_name())
    options = handler.resolve_ref_schema(described)
    options["required"] = ["name", *(field for field in options.get("required", []) if field != "name")]
    return described


def _dump(component: Component, info: core_schema.SerializationInfo) -> dict[str, Any]:
    return component.model_dump(mode=info.mode, exclude_none=False)


AnyDistance = Annotated[Distance, ComponentField("distance")]
AnyAligner = Annotated[Aligner, ComponentField("aligner")]
AnyProjector = Annotated[Projector, ComponentField("projector")]
TrainedTargetProjector = Annotated[Projector, ComponentField("projector"), TrainedTarget()]
AnySpace = Annotated[Space, ComponentField("space")]
AnySpaces = Annotated[tuple[AnySpace, ...], DifferentComponents("space")]


OTHERWISE: Final = {
    CROSS_ENTROPY: "'ce', the student's own cross entropy, has the share 1 - kd_rate; set kd_rate instead",
    AUX_LOSS: "'aux_loss', the loss of the student's router, is weighted by the student; set its configuration's "
    "router_aux_loss_coef instead",
}
"""How the terms are weighted that the student has whatever it learns from."""


@dataclass(frozen=True)
class ByTermName:
    """Tells a JSON Schema that the keys of a mapping are names of terms; of which spec they must be, it cannot say."""

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the names that installed components declare, unless a space declares none."""
        described = handler(schema)
        spaces: list[Any] = [info.component for info in list_components("space")]
        aligners: list[Any] = [info.component for info in list_components("aligner")]
        names = sorted({name for component in (*spaces, *aligners) for name in component.terms})
        allowed = {"enum": names} if all(space.terms for space in spaces) else {"not": {"enum": list(OTHERWISE)}}
        return described | {"propertyNames": allowed}


def require_term_names(names: Iterable[str], spaces: Iterable[Space], aligner: Aligner) -> None:
    """Refuse names that no term of some components has.

    Where a space does not declare its terms, nothing but the student's own terms is refused; the first batch will show.

    Args:
        names: to be checked.
        spaces: of the spec.
        aligner: of the spec.

    Raises:
        ValidationError: there is no such term; each error has the name as its place.
    """
    spaces = list(spaces)
    known = [*(name for space in spaces for name in space.terms), *aligner.terms]
    is_declared = all(space.terms for space in spaces)
    problems = []
    for name in names:
        if name in OTHERWISE:
            message = OTHERWISE[name]
        elif is_declared and name not in known:
            message = f"unknown term {name!r}{did_you_mean(name, known)}; this spec's terms are {', '.join(known)}"
        else:
            continue
        described = PydanticCustomError("unknown_term", "{message}", {"message": message})
        problems.append(InitErrorDetails(type=described, loc=(name,), input=name))
    if problems:
        raise ValidationError.from_exception_data("weights", problems)
