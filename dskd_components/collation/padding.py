"""Samples as the rows of a batch, padded to one length."""

from collections.abc import Sequence

import numpy as np

from dskd_components.collation.encoded import EncodedSide
from dskd_components.collation.options import PaddingSide
from dskd_components.models.states import IGNORE_INDEX
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
        pad_id: What ``input_ids`` are filled with; masks are filled with 0, labels with -100, groups with -1.
        padding_side: Where the filling goes.
        pad_to_multiple_of: What T is a multiple of.

    Returns:
        ``input_ids``, ``attention_mask``, ``labels``, ``groups`` if there are some, and ``position_ids`` where padding
        on the left would shift the model's own.
    """
    shape = len(rows), rounded_up(max(map(len, rows)), pad_to_multiple_of)
    filling = {"input_ids": pad_id, "attention_mask": 0, "labels": IGNORE_INDEX}
    if rows[0].groups is not None:
        filling["groups"] = -1
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
        if padding_side == "left":
            columns["position_ids"][number, place] = np.arange(len(row))
    return columns
