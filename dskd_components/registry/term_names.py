"""The names of terms that a spec's weights may use, as far as the components declare them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from dskd_components.contracts.component import did_you_mean
from dskd_components.registry.lookup import list_components

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import core_schema

    from dskd_components.contracts.aligner import Aligner
    from dskd_components.contracts.space import Space


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
        allowed = {"enum": names} if all(space.terms for space in spaces) else {"not": {"const": "ce"}}
        return described | {"propertyNames": allowed}


def require_term_names(names: Iterable[str], spaces: Iterable[Space], aligner: Aligner) -> None:
    """Refuse names that no term of some components has.

    Where a space does not declare its terms, nothing but the cross entropy is refused; the first batch will show.

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
        if name == "ce":
            message = "'ce', the student's own cross entropy, has the share 1 - kd_rate; set kd_rate instead"
        elif is_declared and name not in known:
            message = f"unknown term {name!r}{did_you_mean(name, known)}; this spec's terms are {', '.join(known)}"
        else:
            continue
        described = PydanticCustomError("unknown_term", "{message}", {"message": message})
        problems.append(InitErrorDetails(type=described, loc=(name,), input=name))
    if problems:
        raise ValidationError.from_exception_data("weights", problems)
