"""Samples one after the other in a single row."""

from collections.abc import Sequence

import numpy as np

from dskd_components.collation.encoded import EncodedSide
from dskd_components.collation.padding import rounded_up
from dskd_components.models.states import IGNORE_INDEX
from dskd_components.tokenization.arrays import IntArray

NO_SEGMENT = -1
"""The segment of padding."""


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
        ``input_ids``, ``labels``, ``groups`` if there are some, ``position_ids``, ``segment_ids``.
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
    return {
        name: np.concatenate([*pieces, filling])[None].astype(np.int64) for name, (pieces, filling) in parts.items()
    }
