"""`Component`: a named, frozen, typed set of options. Every plugin class is one."""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError


class FrozenModel(BaseModel):
    """A pydantic model that cannot be changed and knows every one of its fields.

    An unknown field is an error that names the nearest known ones, and NaN or infinity is never a valid number.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_fields(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        known = list(cls.model_fields)
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

    A concrete component has a field ``name: Literal["my_name"] = "my_name"``; its other fields are its options.
    """

    kind: ClassVar[str]
    """What the component is: ``"distance"``, ``"aligner"``, ``"projector"`` or ``"space"``."""

    source: ClassVar[str] = ""
    """The paper and equation that define it."""

    name: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Check, when the class is made, that a component which names itself does so in the one way that works."""
        super().__pydantic_init_subclass__(**kwargs)
        field = cls.model_fields["name"]
        if field.is_required() and field.annotation is str:
            return  # an abstract base: it leaves the name to its subclasses
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        if len(choices) != 1 or field.default != choices[0] or not isinstance(choices[0], str):
            raise TypeError(
                f'{cls.__name__}.name: expected `name: Literal["my_name"] = "my_name"`, one string that is also the '
                f"default, got annotation {field.annotation!r} and default {field.default!r}."
            )

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


def did_you_mean(name: object, known: list[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known names nearest to an unknown one, or nothing.

    Capitals and the characters between words make no difference.

    Examples:
        >>> did_you_mean("Temprature", ["temperature", "distance"])
        " (did you mean 'temperature'?)"
    """
    by_letters = {_letters(other): other for other in known}
    close = [by_letters[letters] for letters in get_close_matches(_letters(name), by_letters, n=3, cutoff=0.5)]
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def _letters(name: object) -> str:
    return re.sub(r"[\W_]+", "", str(name)).casefold()
