"""How hidden states are written as numbers: float32, bfloat16, or int8 with a scale for each group of units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from dskd_components.errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    from typing import Self

StateFormat = Literal["float32", "bfloat16", "int8"]
"""How one unit of a hidden state is stored."""

GROUP: Final = 64
"""How many neighbouring units of a state share a scale in int8. A scale a row loses three times as much of states whose
units differ in size, as those of language models do, and 32 units a scale would take 1.06 bytes a unit."""

DTYPES: Final[dict[str, torch.dtype]] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


def state_format(name: object) -> StateFormat:
    """Return the name of a format once it is known to be one.

    Args:
        name: what the user has typed.

    Raises:
        ConfigurationError: there is no such format.

    Examples:
        >>> state_format("int8")
        'int8'
    """
    for known in get_args(StateFormat):
        if name == known:
            return known  # type: ignore[no-any-return]
    known_names = get_args(StateFormat)
    raise ConfigurationError(
        f"dtype: expected one of {', '.join(map(repr, known_names))}, got {name!r}{did_you_mean(name, known_names)}."
    )


def bytes_per_state(hidden_size: int, format: StateFormat) -> int:  # noqa: A002  # the word of the manifest
    """Return how many bytes the hidden state of one position takes.

    Args:
        hidden_size: its width d.
        format: how it is stored.

    Examples:
        >>> [bytes_per_state(576, name) for name in ("float32", "bfloat16", "int8")]
        [2304, 1152, 594]
    """
    scales = 2 * groups_of(hidden_size) if format == "int8" else 0
    return hidden_size * DTYPES[format].itemsize + scales


def groups_of(hidden_size: int) -> int:
    """Return how many scales a state of int8 has.

    Args:
        hidden_size: its width d.
    """
    return -(-hidden_size // GROUP)


@dataclass(frozen=True, eq=False)
class StoredStates:
    """Hidden states as they are stored.

    Args:
        values: ``[..., d]``, float32, bfloat16 or int8.
        scales: ``[..., groups]``, bfloat16: what the units of each group are multiplied with; int8 alone has them.
    """

    values: Tensor
    scales: Tensor | None = None

    @classmethod
    def encode(cls, states: Tensor, format: StateFormat) -> Self:  # noqa: A002
        """Return states in a format.

        Args:
            states: ``[N, d]``, floating point and finite.
            format: how they are stored.

        Examples:
            >>> stored = StoredStates.encode(torch.tensor([[1.0, -0.5]]), "int8")
            >>> stored.values, stored.decode()
            (tensor([[126, -63]], dtype=torch.int8), tensor([[ 0.9998, -0.4999]]))
        """
        if format != "int8":
            return cls(states.to(DTYPES[format]).contiguous())
        grouped = _grouped(states.float())
        scales = _rounded_up(grouped.abs().amax(-1) / 127)
        # Groups of zeros have a scale of zero, by which nothing can be divided.
        divisors = scales.float().where(scales > 0, 1.0)
        values = (grouped / divisors[..., None]).round().clamp(-127, 127).to(torch.int8)
        return cls(values.flatten(-2)[..., : states.shape[-1]].contiguous(), scales.contiguous())

    def decode(self) -> Tensor:
        """Return ``[..., d]``: the states, float32, or bfloat16 where that is how they are stored."""
        if self.scales is None:
            return self.values
        decoded = _grouped(self.values.float()) * self.scales.float()[..., None]
        return decoded.flatten(-2)[..., : self.values.shape[-1]]

    def __getitem__(self, rows: slice | Tensor) -> Self:
        return type(self)(self.values[rows], None if self.scales is None else self.scales[rows])

    def __len__(self) -> int:
        return len(self.values)


def _grouped(states: Tensor) -> Tensor:
    """Return ``[..., groups, GROUP]``: the units of each group, filled up with zeros."""
    width = states.shape[-1]
    filled: Tensor = F.pad(states, (0, groups_of(width) * GROUP - width))
    return filled.reshape(*filled.shape[:-1], groups_of(width), GROUP)


def _rounded_up(scales: Tensor) -> Tensor:
    """Return positive float32 numbers in bfloat16, none of them smaller: 127 steps must reach the largest unit."""
    rounded = scales.bfloat16()
    # The next bfloat16 up of a positive number is the next integer of its bits.
    following = (rounded.view(torch.int16) + 1).view(torch.bfloat16)
    found: Tensor = rounded.where(rounded.float() >= scales, following)
    return found
