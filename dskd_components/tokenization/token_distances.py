"""Edit distances between the tokens of two sequences, each pair of distinct tokens measured once."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TokenDistances:
    """Edit distances between the tokens of two sequences.

    Attributes:
        row_ids: Which distinct token each token of the one sequence is ``[R]``.
        column_ids: Which distinct token each token of the other sequence is ``[C]``.
        row_lengths: How many characters each token of the one sequence has ``[R]``.
        column_lengths: Likewise for the other ``[C]``.
        table: Distances between distinct tokens ``[distinct row tokens, distinct column tokens]``.
    """

    row_ids: IntArray
    column_ids: IntArray
    row_lengths: IntArray
    column_lengths: IntArray
    table: npt.NDArray[np.unsignedinteger]


def token_distances(rows: list[str], columns: list[str]) -> TokenDistances:
    """Levenshtein distances between the tokens of two sequences, neither of them empty.

    Memory: one byte for each pair of distinct tokens, four if a token is longer than 255 characters.

    Examples:
        >>> token_distances(["a", "b", "a"], ["ab"]).table.tolist()
        [[1], [1]]
    """
    row_ids, row_tokens, row_lengths = _distinct(rows)
    column_ids, column_tokens, column_lengths = _distinct(columns)
    dtype = np.uint8 if max(row_lengths.max(), column_lengths.max()) < 256 else np.uint32
    table = cdist(row_tokens, column_tokens, scorer=Levenshtein.distance, dtype=dtype)
    return TokenDistances(row_ids, column_ids, row_lengths[row_ids], column_lengths[column_ids], table)


def _distinct(tokens: list[str]) -> tuple[IntArray, list[str], IntArray]:
    """Which distinct token each is, the distinct tokens, and their lengths."""
    numbers: dict[str, int] = {}
    ids = [numbers.setdefault(token, len(numbers)) for token in tokens]
    distinct = list(numbers)
    return np.array(ids, dtype=np.int64), distinct, np.array(list(map(len, distinct)), dtype=np.int64)
