"""`Component`: the frozen pydantic model that every component is, and mappings that stay as they are."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema
from torch import Tensor, nn

from dskd_components.errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler


Value = TypeVar("Value", covariant=True)
Given = TypeVar("Given")


class FrozenMapping(Mapping[str, Value]):
    """A mapping that cannot be changed. The order of its names is kept, but makes no difference.

    Args:
        items: names and values; copied.

    Examples:
        >>> FrozenMapping({"a": 1, "b": 2}) == {"b": 2, "a": 1}
        True
        >>> hash(FrozenMapping({"a": 1, "b": 2})) == hash(FrozenMapping({"b": 2, "a": 1}))
        True
    """

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Value]) -> None:
        self._items = dict(items)

    def __getitem__(self, name: str) -> Value:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


@dataclass(frozen=True)
class Frozen:
    """Tells pydantic that a field of type ``Mapping[str, V]`` holds a `FrozenMapping`."""

    def __get_pydantic_core_schema__(self, source: type[Any], handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Read and write it as a dictionary."""
        plain = handler.generate_schema(dict[get_args(source)])  # type: ignore[misc]
        return core_schema.no_info_after_validator_function(
            FrozenMapping,
            plain,
            serialization=core_schema.wrap_serializer_function_ser_schema(_dump, schema=plain),
        )


def _dump(mapping: Mapping[str, Any], dump: core_schema.SerializerFunctionWrapHandler) -> Any:
    return dump(dict(mapping))


class FrozenModel(BaseModel):
    """A pydantic model that cannot be changed and knows every one of its fields.

    An unknown field is an error that names the nearest known ones, and NaN or infinity is never a valid number. A field
    with an alias has it in files, and either name in Python.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
        validate_by_alias=True,
        validate_by_name=True,
        serialize_by_alias=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_fields(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        aliases = (field.validation_alias or field.alias for field in cls.model_fields.values())
        known = [*cls.model_fields, *(alias for alias in aliases if isinstance(alias, str))]
        unknown = [key for key in values if key not in known]
        if unknown:
            raise ValidationError.from_exception_data(
                cls.__name__,
                [
                    InitErrorDetails(
                        type=PydanticCustomError(
                            "unknown_field",
                            "unknown field {field}{hint}; the fields are {fields}",
                            {
                                "field": repr(key),
                                "hint": did_you_mean(key, known),
                                "fields": ", ".join(known),
                            },
                        ),
                        loc=(key,),
                        input=values[key],
                    )
                    for key in unknown
                ],
            )
        return values


class Component(FrozenModel, ABC):
    """Base of every plugin class. The pydantic model is the component's typed spec.

    A concrete component has a field ``name: Literal["my_name"] = "my_name"``; its other fields are its options. It
    holds no tensor, parameter or module, in whatever attribute: these belong to the module that its ``build`` returns,
    which is trained, saved and moved with the loss.

    Raises:
        ConfigurationError: an attribute holds one; the message names it.
    """

    kind: ClassVar[str]
    """What the component is: ``"distance"``, ``"aligner"``, ``"projector"``, ``"space"`` or ``"schedule"``."""

    source: ClassVar[str] = ""
    """The paper and equation that define it."""

    name: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Check, when the class is made, that a component which names itself does so in the one way that works."""
        super().__pydantic_init_subclass__(**kwargs)
        for option, info in cls.model_fields.items():
            _require_readable(f"{cls.__name__}.{option}", info.annotation, info.metadata)
        field = cls.model_fields["name"]
        if field.is_required() and field.annotation is str:
            return  # an abstract base: it leaves the name to its subclasses
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        if len(choices) != 1 or field.default != choices[0] or not isinstance(choices[0], str):
            raise TypeError(
                f'{cls.__name__}.name: expected `name: Literal["my_name"] = "my_name"`, one string that is also the '
                f"default, got annotation {field.annotation!r} and default {field.default!r}."
            )
        for attribute, value in vars(cls).items():
            if not attribute.startswith("__"):
                _refuse_tensor(f"The {cls.kind} {field.default!r}", attribute, value)

    @model_validator(mode="after")
    def _hold_no_tensor(self) -> Self:
        """Refuse what would be neither trained nor saved nor moved, and would make equal specs unequal."""
        for attribute, value in {**vars(self), **(self.__pydantic_private__ or {})}.items():
            _refuse_tensor(f"The {self.kind} {self.name!r}", attribute, value)
        return self

    def __setattr__(self, attribute: str, value: Any) -> None:
        """Set a private attribute, which may not hold a tensor either."""
        _refuse_tensor(f"The {self.kind} {type(self).component_name()!r}", attribute, value)
        super().__setattr__(attribute, value)

    def required(self, heads: Given | None) -> Given:
        """Return the heads, for a ``build`` that cannot do without.

        Args:
            heads: what ``build`` was given.

        Raises:
            ConfigurationError: there are none.
        """
        if heads is None:
            raise ConfigurationError(
                f"The {self.kind} {self.name!r} is made from the models' heads: build it with "
                "heads=ProjectorHeads(...), and a loss of it with student_head=Head(...) and teacher_head=Head(...), "
                "or by DSKDLoss.from_models."
            )
        return heads

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Return instances that are worth testing beside those that the conformance kit makes of single options.

        For options that have no default or are of types that the kit does not understand, and for combinations.
        """
        return ()

    @classmethod
    def component_name(cls) -> str:
        """Return the name under which the class is registered.

        Raises:
            TypeError: the class is an abstract base without a name.
        """
        field = cls.model_fields["name"]
        if field.is_required():
            raise TypeError(f'{cls.__name__} has no name: add `name: Literal["my_name"] = "my_name"`.')
        return str(field.default)


def stay_abstract(cls: type[Component], base: type[Any], method: str) -> None:
    """Leave a class abstract that has neither a method nor a ``build`` of its own: what is built may have the method.

    Args:
        cls: the class.
        base: the class of its kind, which has both as they stand.
        method: the method's name.
    """
    if all(getattr(cls, name) is getattr(base, name) for name in (method, "build")):
        cls.__abstractmethods__ = cls.__abstractmethods__ | {method}


def forget_outdated(cls: type[Any], base: type[Any], method: str, *shortcuts: str) -> None:
    """Have a class do without what a base class says of a method that has been overridden since.

    Args:
        cls: the class.
        base: the class of its kind, whose shortcuts are right for any method.
        method: the method's name.
        shortcuts: quicker ways to what the method gives, and claims that an engine relies on.
    """

    def owner(name: str) -> int:
        return next(number for number, one in enumerate(cls.__mro__) if name in vars(one))

    for shortcut in shortcuts:
        if owner(method) < owner(shortcut):
            setattr(cls, shortcut, vars(base)[shortcut])


def tensor_held_by(value: object, *, depth: int = 3) -> str | None:
    """Return the type of the first tensor, parameter or module that a value holds, or None.

    Args:
        value: anything; containers and plain objects are looked into.
        depth: how many of them within one another.
    """
    if isinstance(value, Tensor | nn.Module):
        return type(value).__name__
    if depth == 0 or isinstance(value, str | bytes | type | FunctionType | ModuleType):
        return None
    if isinstance(value, Mapping):
        parts: Collection[object] = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = value
    else:
        parts = list(getattr(value, "__dict__", {}).values())
    return next((found for part in parts if (found := tensor_held_by(part, depth=depth - 1))), None)


def _refuse_tensor(component: str, attribute: str, value: object) -> None:
    found = tensor_held_by(value)
    if found is not None:
        raise ConfigurationError(
            f"{component} holds a {found} in {attribute!r}. A component is a frozen set of options: it is compared, "
            "written to JSON and copied, and a tensor in it is neither trained nor saved nor moved to the models' "
            "device. Return an nn.Module from its method build(...), with an nn.Parameter for what is learned and "
            "register_buffer(...) for what is constant."
        )


@dataclass(frozen=True)
class ReadsComponents:
    """Base of what tells pydantic how to read and write a field that holds components of a kind."""

    kind: str


def _require_readable(option: str, annotation: Any, metadata: Collection[object]) -> None:
    """Refuse an option that holds any component of a kind and can neither read nor write one.

    Pydantic makes an instance of the base class of what it reads, and writes the base class's fields alone.

    Raises:
        TypeError: the option is of such a type.
    """
    if any(isinstance(item, ReadsComponents) for item in metadata):
        return
    if get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
        _require_readable(option, annotation, metadata)
    elif get_origin(annotation) is not None:
        for part in get_args(annotation):
            _require_readable(option, part, ())
    elif isinstance(annotation, type) and issubclass(annotation, Component):
        kind = getattr(annotation, "kind", "schedule")  # schedules stand in weights alone
        if kind != "schedule" and annotation.model_fields["name"].is_required():
            raise TypeError(
                f"{option}: expected Any{kind.capitalize()}, of dskd_components.components, which is read from a "
                f"name or a mapping and written with its options, got {annotation.__name__}."
            )


Choice = TypeVar("Choice", bound=FrozenModel)


def read_choice(
    value: object,
    base: type[Choice],
    kind: str,
    class_of: Callable[[str], type[Choice]],
    make: Callable[[type[Choice], Mapping[Any, Any]], Choice] | None = None,
) -> Choice:
    """Return what a field of a spec chooses: an instance as it is, a name, or a mapping with a name and options.

    Args:
        value: what the field was given.
        base: the class of all that can be chosen.
        kind: what they are called in messages, ``"distance"``.
        class_of: finds a class by name; its `ValueError` names the alternatives.
        make: makes an instance of a class and options; None: pydantic's validation.

    Raises:
        ValueError: it is something else, or there is no such name; in a mapping the error's place is ``name``.
    """
    make = make or (lambda cls, options: cls.model_validate(options))
    noun = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
    if isinstance(value, base):
        return value
    if isinstance(value, str):
        return make(class_of(value), {})
    if not isinstance(value, Mapping):
        raise ValueError(
            f"expected {noun}: an instance, a name, or a mapping with a name and options, got {_described(value, base)}"
        )
    name = value.get("name")
    if not isinstance(name, str):
        raise ValueError(f"expected a mapping with the {kind}'s name under 'name', got {dict(value)!r}")
    try:
        chosen = class_of(name)
    except ValueError as error:
        described = PydanticCustomError("unusable_name", "{error}", {"error": str(error)})
        raise ValidationError.from_exception_data(
            kind, [InitErrorDetails(type=described, loc=("name",), input=name)]
        ) from error
    return make(chosen, value)


def require_name_in_schema(schema: dict[str, Any]) -> None:
    """Have a JSON Schema ask for the name, which tells one choice from another."""
    schema["required"] = ["name", *(field for field in schema.get("required", []) if field != "name")]


def _described(value: object, base: type[FrozenModel]) -> str:
    """Say what came instead of a choice."""
    if isinstance(value, Component):
        return f"the {value.kind} {value.name!r}"
    if isinstance(value, type):
        return f"the class {value.__name__}" + (
            f"; did you mean {value.__name__}()?" if issubclass(value, base) else ""
        )
    return "None" if value is None else f"{type(value).__name__} {value!r}"
