"""States as columns of a batch, which go from a collator's worker to the loss like any other column."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import torch

from dskd_components.store.formats import StoredStates
from dskd_components.store.reader import BatchStates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dskd_components.store.manifest import Manifest

BITS: Final = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.int8: torch.int8}
"""Integers of the same size: trainers round floating-point columns to the precision of the student."""

FLOATS: Final = {integer: dtype for dtype, integer in BITS.items()}

STATES: Final = "store_states"
SCALES: Final = "store_scales"
POSITIONS: Final = "store_positions"
NUMBER: Final = "store_number"


def number_of(manifest: Manifest) -> int:
    """Return what tells states of one teacher, tokenizer and format from others: 63 bits, the same in every process.

    Args:
        manifest: of a store.
    """
    facts = (manifest.teacher, manifest.tokenizer, manifest.states, manifest.head.weights)
    return int(hashlib.sha256(repr(facts).encode()).hexdigest()[:16], 16) >> 1


def as_columns(found: BatchStates, number: int) -> dict[str, Tensor]:
    """Return states as columns whose first dimension is the batch's, by name without prefix.

    Args:
        found: the states of a batch.
        number: of the store, as `number_of` gives it.

    Examples:
        >>> found = BatchStates(StoredStates(torch.ones(2, 1, 4)), torch.tensor([[0], [-1]]))
        >>> columns = as_columns(found, 7)
        >>> {name: list(column.shape) for name, column in columns.items()}
        {'store_states': [2, 1, 4], 'store_positions': [2, 1], 'store_number': [2]}
        >>> torch.equal(states_in(columns).states.values, found.states.values)
        True
    """
    values, scales = found.states.values, found.states.scales
    columns = {
        STATES: values.view(BITS[values.dtype]),
        POSITIONS: found.positions,
        NUMBER: torch.full((len(values),), number, dtype=torch.int64, device="cpu"),
    }
    return columns if scales is None else columns | {SCALES: scales.view(torch.int16)}


def has_states(columns: Mapping[str, Tensor]) -> bool:
    """Return whether states came along with a batch.

    Args:
        columns: of the teacher, by name without prefix.
    """
    return all(columns.get(name) is not None for name in (STATES, POSITIONS, NUMBER))


def states_in(columns: Mapping[str, Tensor]) -> BatchStates:
    """Return the states that `as_columns` has put into columns.

    Args:
        columns: of the teacher, by name without prefix.
    """
    bits, scales = columns[STATES], columns.get(SCALES)
    states = StoredStates(bits.view(FLOATS[bits.dtype]), None if scales is None else scales.view(torch.bfloat16))
    return BatchStates(states, columns[POSITIONS])
