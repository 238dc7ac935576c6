"""`FrozenMapping`: a mapping for fields of frozen models, which can be compared and hashed like them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic_core import core_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler

Value = TypeVar("Value", covariant=True)


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
