"""Samples of different lengths as one batch: padded to the longest, or packed into rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dskd_components.models.states import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dskd_components.collation.encoded import EncodedSide
    from dskd_components.collation.problems import PaddingSide
    from dskd_components.tokenization.arrays import IntArray


def rounded_up(length: int, multiple: int | None) -> int:
    """The next length that is a multiple of a number.

    Examples:
        >>> rounded_up(13, 8), rounded_up(16, 8), rounded_up(13, None)
        (16, 16, 13)
    """
    return length if multiple is None else -(-length // multiple) * multiple


def pad_rows(
    rows: Sequence[EncodedSide], *, pad_id: int, padding_side: PaddingSide, pad_to_multiple_of: int | None
) -> dict[str, IntArray]:
    """One side of samples as columns ``[B, T]``.

    Args:
        rows: One side of each sample.
        pad_id: What ``input_ids`` are filled with; masks are filled with 0, labels with -100, all else with -1.
        padding_side: Where the filling goes.
        pad_to_multiple_of: What T is a multiple of.

    Returns:
        ``input_ids``, ``attention_mask``, ``labels``, ``groups`` if there are some, further columns, and
        ``position_ids`` where padding on the left would shift the model's own.
    """
    shape = len(rows), rounded_up(max(map(len, rows)), pad_to_multiple_of)
    filling = {"input_ids": pad_id, "attention_mask": 0, "labels": IGNORE_INDEX}
    if rows[0].groups is not None:
        filling["groups"] = -1
    filling |= dict.fromkeys(rows[0].further, NOTHING)
    if padding_side == "left":
        filling["position_ids"] = 0
    columns = {name: np.full(shape, value, dtype=np.int64) for name, value in filling.items()}
    for number, row in enumerate(rows):
        place = slice(len(row)) if padding_side == "right" else slice(shape[1] - len(row), None)
        columns["input_ids"][number, place] = row.input_ids
        columns["attention_mask"][number, place] = 1
        columns["labels"][number, place] = row.labels
        if row.groups is not None:
            columns["groups"][number, place] = row.groups
        for name, column in row.further.items():
            columns[name][number, place] = column
        if padding_side == "left":
            columns["position_ids"][number, place] = np.arange(len(row))
    return columns


NO_SEGMENT = -1
"""The segment of padding."""

NOTHING = -1
"""What further columns hold at padding."""


def pack_rows(
    rows: Sequence[EncodedSide], group_offsets: Sequence[int], *, pad_id: int, pad_to_multiple_of: int | None
) -> dict[str, IntArray]:
    """One side of samples as columns ``[1, total]``.

    Positions restart with each sample. Without a mask, ``transformers`` reads from that which tokens may see which.

    Args:
        rows: One side of each sample.
        group_offsets: What each sample's group numbers are raised by, so that no two samples share one.
        pad_id: What ``input_ids`` are filled with, if at all.
        pad_to_multiple_of: What the length is a multiple of. Padding is a segment of its own, the last one.

    Returns:
        ``input_ids``, ``labels``, ``groups`` if there are some, further columns, ``position_ids``, ``segment_ids``.
    """
    lengths = np.array([len(row) for row in rows])
    total = int(lengths.sum())
    spare = rounded_up(total, pad_to_multiple_of) - total
    parts = {
        "input_ids": ([row.input_ids for row in rows], np.full(spare, pad_id)),
        "labels": ([row.labels for row in rows], np.full(spare, IGNORE_INDEX)),
        "position_ids": ([np.arange(length) for length in lengths], np.arange(spare)),
        "segment_ids": ([np.repeat(np.arange(len(rows)), lengths)], np.full(spare, NO_SEGMENT)),
    }
    groups = [
        np.where(row.groups >= 0, row.groups + offset, -1)
        for row, offset in zip(rows, group_offsets, strict=True)
        if row.groups is not None
    ]
    if groups:
        parts["groups"] = (groups, np.full(spare, -1))
    for name in rows[0].further:
        parts[name] = ([row.further[name] for row in rows], np.full(spare, NOTHING))
    return {
        name: np.concatenate([*pieces, filling])[None].astype(np.int64) for name, (pieces, filling) in parts.items()
    }
