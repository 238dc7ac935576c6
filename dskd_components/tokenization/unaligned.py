"""Why a token has no partner on the other side."""

from enum import StrEnum

import numpy as np
import numpy.typing as npt

from dskd_components.tokenization.byte_spans import TokenizedText
from dskd_components.tokenization.leading_spaces import core_starts, overlapping


class UnalignedReason(StrEnum):
    """Why a token has no partner; these are all the reasons there are."""

    TEMPLATE = "template token that the other side lacks"
    NO_TEXT = "stands for no text"
    REWRITTEN = "shares a character that its normaliser rewrote"
    SPACES = "spaces that the other side joins to a word"
    SPLIT = "split into several tokens on the other side"
    MERGED = "part of a longer token on the other side"
    CROSSING = "its boundaries cross those of the other side"
    UNCOVERED = "the other side has no token here"
    WARPED = "warped onto several tokens"


def unaligned_reasons(
    side: TokenizedText, other: TokenizedText, aligned: npt.NDArray[np.bool_], *, warped: bool = False
) -> list[tuple[int, UnalignedReason]]:
    """The index of every token without a partner, and the reason.

    Args:
        side: The tokens to account for.
        other: The other side's tokens of the same text.
        aligned: Which tokens of `side` have a partner ``[T]``.
        warped: Whether tokens were warped onto each other, so that every text token has counterparts.
    """
    missing = np.flatnonzero(~aligned)
    if len(missing) == 0:
        return []
    starts, ends = side.starts[side.text_tokens], side.ends[side.text_tokens]
    shared = overlapping(starts, ends)
    cores = core_starts(side.data, starts, ends)
    covers = _Cover(other)
    found = []
    for index in missing.tolist():
        token = index - side.bos_count
        if not 0 <= token < len(starts):
            reason = UnalignedReason.TEMPLATE
        elif warped:
            reason = UnalignedReason.WARPED
        elif starts[token] == ends[token]:
            reason = UnalignedReason.NO_TEXT
        elif shared[token]:
            reason = UnalignedReason.REWRITTEN
        else:
            reason = covers.reason(int(cores[token]), int(ends[token]))
        found.append((index, reason))
    return found


class _Cover:
    """The other side's spans, without leading spaces and without tokens that stand for no text."""

    def __init__(self, side: TokenizedText) -> None:
        starts, ends = side.starts[side.text_tokens], side.ends[side.text_tokens]
        filled = ends > starts
        self._ends = ends[filled]
        self._starts = core_starts(side.data, starts[filled], self._ends)
        self._data = side.data

    def reason(self, start: int, end: int) -> UnalignedReason:
        first = int(np.searchsorted(self._ends, start, side="right"))
        stop = int(np.searchsorted(self._starts, end, side="left"))
        if first >= stop:
            only_spaces = len(self._ends) > 0 and not self._data[start:end].strip(b" ")
            return UnalignedReason.SPACES if only_spaces else UnalignedReason.UNCOVERED
        left, right = int(self._starts[first]), int(self._ends[stop - 1])
        if stop - first == 1 and left <= start and end <= right:
            return UnalignedReason.MERGED
        if start <= left and right <= end:
            return UnalignedReason.SPLIT
        return UnalignedReason.CROSSING
