"""Edit distances between the tokens of two sequences, each pair of distinct tokens measured once."""

from collections.abc import Sequence
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


@dataclass(frozen=True, eq=False)
class NumberedTokens:
    """A sequence of tokens, each distinct one once.

    Attributes:
        ids: Which of the distinct tokens each one is ``[T]``.
        distinct: The distinct tokens.
    """

    ids: IntArray
    distinct: list[str]

    def __len__(self) -> int:
        return len(self.ids)


def numbered_tokens(tokens: Sequence[str], marker: str) -> NumberedTokens:
    """Number the distinct tokens of a sequence, from which a marker is removed.

    Examples:
        >>> numbered_tokens(["Ġa", "b", "a"], "Ġ")
        NumberedTokens(ids=array([0, 1, 0]), distinct=['a', 'b'])
    """
    numbers: dict[str, int] = {}
    ids = dict.fromkeys(tokens, 0)
    for token in ids:
        ids[token] = numbers.setdefault(token.replace(marker, ""), len(numbers))
    return NumberedTokens(np.array(list(map(ids.__getitem__, tokens)), dtype=np.int64), list(numbers))


def token_distances(rows: NumberedTokens, columns: NumberedTokens) -> TokenDistances:
    """Levenshtein distances between the tokens of two sequences, neither of them empty.

    Memory: one byte for each pair of distinct tokens, four if a token is longer than 255 characters.

    Examples:
        >>> token_distances(numbered_tokens(["a", "b", "a"], "Ġ"), numbered_tokens(["ab"], "▁")).table.tolist()
        [[1], [1]]
    """
    row_lengths, column_lengths = (np.array(list(map(len, side.distinct))) for side in (rows, columns))
    dtype = np.uint8 if max(row_lengths.max(), column_lengths.max()) < 256 else np.uint32
    table = cdist(rows.distinct, columns.distinct, scorer=Levenshtein.distance, dtype=dtype)
    return TokenDistances(rows.ids, columns.ids, row_lengths[rows.ids], column_lengths[columns.ids], table)
