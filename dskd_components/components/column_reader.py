"""`ColumnReader`: a component that reads per-position columns of a batch, beside tokens, labels and states."""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING, Any, ClassVar, Final, get_args

from dskd_components.components.component import Component
from dskd_components.errors import ConfigurationError
from dskd_components.models.states import Side

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

BYTE_POSITIONS: Final = ("byte_starts", "byte_ends")
"""The columns that the collators make on request: where each token starts and ends, in bytes."""


class ColumnReader(Component, ABC):
    """Base of the kinds of components that see positions: aligners and spaces.

    What a batch has for each *token*, the states have for each *position*: that of the token which it predicts, as
    targets are. Columns are constants, and follow padding, packing, micro-batches and tiles.

    Examples:
        An aligner that reads where tokens start, in ``student.columns["byte_starts"]`` and the teacher's::

            class Nearby(AttentionAligner):
                name: Literal["nearby"] = "nearby"
                reads_columns = ("student_byte_starts", "teacher_byte_starts")
    """

    reads_columns: ClassVar[tuple[str, ...]] = ()
    """The columns of the batch that it reads, by the names that they have there, ``"student_byte_starts"``. An aligner
    finds them in ``student.columns["byte_starts"]``, a space those of its own side in ``rows.columns["byte_starts"]``.
    A batch without one of them is refused."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Check, when a class is made, that what it names are names: a text in parentheses is no tuple."""
        super().__pydantic_init_subclass__(**kwargs)
        for attribute in ("terms", "distance_terms", "reads_columns"):
            found = getattr(cls, attribute, ())
            if isinstance(found, property):
                continue
            if not isinstance(found, tuple | list) or not all(isinstance(name, str) for name in found):
                hint = f"; write ({found!r},)" if isinstance(found, str) else ""
                raise TypeError(f"{cls.__name__}.{attribute}: expected a tuple of names, got {found!r}{hint}.")

    @property
    def sides_read(self) -> tuple[Side, ...]:
        """The sides whose positions it sees: an aligner those of both, a space those of its own side."""
        return get_args(Side)

    @classmethod
    def example_column(cls, name: str, tokens: Tensor) -> Tensor:
        """Return a column that laws are tried with; to be overridden by whoever cannot read small integers.

        Args:
            name: the column, without the side.
            tokens: of any shape, int64, 0 or more: the tokens that it is for. The same token has the same entry.

        Returns:
            An entry for each token; numbers from 0 to 12 as it stands, and spans of 1 to 3 bytes as byte positions.
        """
        starts = tokens * 5 % 13
        return starts + 1 + tokens % 3 if name == "byte_ends" else starts


def columns_read_by(component: ColumnReader, side: Side) -> tuple[str, ...]:
    """Return the columns of one side that a component reads, without the side.

    Args:
        component: an aligner or a space.
        side: whose.

    Raises:
        ConfigurationError: it names one that is of no side whose positions it sees.
    """
    sides = component.sides_read
    prefixes = tuple(f"{each}_" for each in sides)
    for name in component.reads_columns:
        if not name.startswith(prefixes) or name in prefixes:
            seen = f"positions of the {sides[0]} alone" if len(sides) == 1 else "positions of both sides"
            raise ConfigurationError(
                f"{described(component)}: reads_columns has {name!r}, but it sees {seen}; expected names as batches "
                f"have them, {' or '.join(repr(f'{each}_worth') for each in sides)} for example."
            )
    own = f"{side}_"
    return tuple(name.removeprefix(own) for name in component.reads_columns if name.startswith(own))


def columns_read(components: Iterable[ColumnReader], side: Side) -> dict[str, str]:
    """Return the columns of one side that some components read, without the side, each with who reads it, in words.

    Args:
        components: aligners and spaces.
        side: whose.

    Raises:
        ConfigurationError: as in `columns_read_by`.
    """
    readers: dict[str, list[str]] = {}
    for component in components:
        for name in columns_read_by(component, side):
            readers.setdefault(name, []).append(described(component))
    return {name: " and ".join(who) for name, who in readers.items()}


def how_to_fill(name: str) -> str:
    """Return where a batch gets a column from, for messages.

    Args:
        name: the column, without the side.
    """
    if name in BYTE_POSITIONS:
        return "DualTokenizerCollator(byte_positions=True) makes it, and so does loss_fn.collator(...) for this loss."
    return "Add it to what your collator returns: a tensor [batch, length] with an entry for each token."


def described(component: Component) -> str:
    """Return what messages call a component."""
    return f"the {component.kind} {component.name!r}"
