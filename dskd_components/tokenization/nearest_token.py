"""The nearest token of a vocabulary by edit distance, for very many tokens at once."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

CHUNK = 256
"""How many tokens are compared with the whole vocabulary at a time."""


def nearest_tokens(tokens: Sequence[str], vocabulary: Sequence[str]) -> list[int]:
    """For each token the vocabulary's token at the smallest Levenshtein distance, the first of several.

    Tokens that share no character with the given one do not count: replacing all of it is no likeness.

    Args:
        tokens: The tokens to place, none of them in the vocabulary.
        vocabulary: The tokens to choose from.

    Returns:
        An index into `vocabulary` for each token, -1 if no token shares a character with it.

    Examples:
        >>> nearest_tokens(["colour", "xyz"], ["dolour", "color", "a"])
        [0, -1]
    """
    found = _one_edit_away(tokens, vocabulary)
    open_tokens = [index for index, nearest in enumerate(found) if nearest < 0]
    # A token without ASCII can only share a character with tokens that have such characters: far fewer.
    everything = list(range(len(vocabulary)))
    exotic = [index for index, token in enumerate(vocabulary) if not token.isascii()]
    with_ascii = [index for index in open_tokens if any(letter < "\x80" for letter in tokens[index])]
    without = sorted(set(open_tokens).difference(with_ascii))
    for indices, targets in ((with_ascii, everything), (without, exotic)):
        letters = set().union(*(vocabulary[target] for target in targets))
        for index, nearest in _two_or_more_away(
            tokens, [index for index in indices if not letters.isdisjoint(tokens[index])], vocabulary, targets
        ):
            found[index] = nearest
    return found


def _one_edit_away(tokens: Sequence[str], vocabulary: Sequence[str]) -> list[int]:
    """The first token at distance 1, found through what is left of a token without one character."""
    by_remainder: defaultdict[str, list[int]] = defaultdict(list)
    for index, token in enumerate(vocabulary):
        for remainder in _remainders(token):
            by_remainder[remainder].append(index)
    found = []
    for token in tokens:
        best = -1
        for remainder in _remainders(token):
            for index in by_remainder.get(remainder, ()):
                if 0 <= best <= index:
                    break
                other = vocabulary[index]
                if max(len(token), len(other)) > 1 and Levenshtein.distance(token, other, score_cutoff=1) == 1:
                    best = index
                    break
        found.append(best)
    return found


def _remainders(token: str) -> set[str]:
    return {token, *(token[:index] + token[index + 1 :] for index in range(len(token)))}


def _two_or_more_away(
    tokens: Sequence[str], indices: list[int], vocabulary: Sequence[str], targets: list[int]
) -> Iterator[tuple[int, int]]:
    """The nearest token for tokens that have none at distance 1, those of like length compared first."""
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for index in indices:
        by_length[len(tokens[index])].append(index)
    for length, group in by_length.items():
        like = [target for target in targets if abs(len(vocabulary[target]) - length) <= 2]
        rest = []
        for index, nearest, distance in _compare(tokens, group, vocabulary, like):
            if nearest >= 0 and distance == 2:
                yield index, nearest
            else:
                rest.append(index)
        for index, nearest, _ in _compare(tokens, rest, vocabulary, targets):
            yield index, nearest


def _compare(
    tokens: Sequence[str], indices: list[int], vocabulary: Sequence[str], targets: list[int]
) -> Iterator[tuple[int, int, int]]:
    """For each token its nearest target and the distance, (-1, 0) if none shares a character."""
    choices = [vocabulary[target] for target in targets]
    if not choices:
        yield from ((index, -1, 0) for index in indices)
        return
    lengths = np.fromiter(map(len, choices), dtype=np.int64, count=len(choices))
    for start in range(0, len(indices), CHUNK):
        part = indices[start : start + CHUNK]
        longest = max(int(lengths.max()), *(len(tokens[index]) for index in part))
        dtype = np.uint8 if longest < 256 else np.uint32
        rows = cdist([tokens[i] for i in part], choices, scorer=Levenshtein.distance, dtype=dtype, workers=-1)
        for index, row, nearest in zip(part, rows, rows.argmin(axis=1).tolist(), strict=True):
            length = len(tokens[index])
            if row[nearest] >= length:  # nothing but replacements; a longer token may yet share something
                shares = np.flatnonzero(row < np.maximum(lengths, length))
                nearest = int(shares[row[shares].argmin()]) if len(shares) else -1
            yield (index, targets[nearest], int(row[nearest])) if nearest >= 0 else (index, -1, 0)
