"""The leading-space convention: one rule for ``Ġthe``, ``▁the`` and a space token followed by ``the``."""

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

SPACE = 0x20


def core_starts(data: bytes, starts: IntArray, ends: IntArray) -> IntArray:
    r"""Where spans start once their leading spaces are set aside.

    This is the one rule for ``Ġthe``, ``▁the`` and a space token followed by ``the``: a run of spaces
    (U+0020) at the start of a span is not compared, so all three ``the`` are equal. A token of nothing but
    spaces is compared whole. Other whitespace (tab, newline, no-break space) is text like any other.

    Args:
        data: The text in UTF-8.
        starts: Where the spans start ``[T]``.
        ends: Where they end ``[T]``.

    Returns:
        The starts without leading spaces ``[T]``.

    Examples:
        >>> core_starts(b"a  the", np.array([0, 1, 1]), np.array([1, 6, 3])).tolist()
        [0, 3, 1]
    """
    solid = np.flatnonzero(np.frombuffer(data + b".", dtype=np.uint8) != SPACE)
    first = solid[np.searchsorted(solid, starts)]
    return np.where(first < ends, first, starts)


def overlapping(starts: IntArray, ends: IntArray) -> BoolArray:
    """Which spans share bytes with a neighbour: tokens inside one character that a normaliser rewrote."""
    clash = ends[:-1] > starts[1:]
    shared = np.zeros(len(starts), dtype=np.bool_)
    shared[:-1] |= clash
    shared[1:] |= clash
    return shared
