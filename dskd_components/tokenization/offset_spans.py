"""Byte spans from a tokenizer's own character offsets, where its tokens do not spell out the text.

That is so for tokenizers that change the text: lower case, Unicode normalisation, dropped characters. Their
offsets are right as far as they go. What they leave open, and is settled here: characters that no token
covers, several tokens on one character, and spaces that a post-processor took out.
"""

import numpy as np
import numpy.typing as npt

from dskd_components.errors import InputError
from dskd_components.tokenization.arrays import BoolArray, IntArray
from dskd_components.tokenization.token_bytes import VocabularyBytes

_LAST_SPACE = 0x3000
_IS_SPACE = np.array([chr(code).isspace() for code in range(_LAST_SPACE + 2)])


def spans_from_offsets(
    vocabulary: VocabularyBytes, text: str, token_ids: IntArray, offsets: IntArray
) -> tuple[IntArray, IntArray]:
    """The byte span of each token of a text, from character offsets.

    Args:
        vocabulary: The bytes of every token id.
        text: The original text.
        token_ids: The ids of the text's tokens, without those that a template added ``[T]``.
        offsets: Their character offsets ``[T, 2]``.

    Returns:
        Starts and ends in bytes, neither of which ever goes down.

    Raises:
        InputError: An offset lies outside the text.
    """
    if len(token_ids) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    if offsets.min() < 0 or offsets.max() > len(text):
        raise InputError(
            f"Expected character offsets within a text of {len(text)} characters, but the tokenizer gave "
            f"{int(offsets.min())} to {int(offsets.max())}. Its normaliser or pre-tokeniser loses track."
        )
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    spaces = _IS_SPACE[np.minimum(codes, _LAST_SPACE + 1)]
    starts, ends = offsets[:, 0], offsets[:, 1]
    if vocabulary.trims_offsets:
        starts, ends = _untrimmed(vocabulary, spaces, token_ids, starts, ends)
    # Offsets that go backwards are widened until they do not.
    starts = np.minimum.accumulate(starts[::-1])[::-1]
    ends = np.maximum.accumulate(np.maximum(starts, ends))
    starts, ends = _give_away_gaps(spaces, starts, ends)
    position = _byte_positions(codes)
    starts, ends = position[starts], position[ends]
    if np.any(starts[1:] < ends[:-1]):
        _settle_overlaps(vocabulary, text.encode(), token_ids, starts, ends)
    return starts, ends


def _byte_positions(codes: npt.NDArray[np.uint32]) -> IntArray:
    """Where each character starts in UTF-8, and where the text ends."""
    widths = 1 + (codes > 0x7F) + (codes > 0x7FF).astype(np.int64) + (codes > 0xFFFF)
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(widths)])


def _untrimmed(
    vocabulary: VocabularyBytes,
    spaces: BoolArray,
    token_ids: IntArray,
    starts: IntArray,
    ends: IntArray,
) -> tuple[IntArray, IntArray]:
    """Give tokens back the spaces that the post-processor took out of their offsets.

    It takes leading spaces, so that a token of nothing but spaces is left empty at its end; of the first
    token it may take trailing ones instead.
    """
    spans = []
    free_from = 0
    ids, added = token_ids.tolist(), vocabulary.added[token_ids].tolist()
    for number, fixed, start, end in zip(ids, added, starts.tolist(), ends.tolist(), strict=True):
        piece = vocabulary.pieces[number]
        owed = 0 if fixed else len(piece) - len(piece.lstrip(b" ")) - (end - start if piece.isspace() else 0)
        while owed > 0 and start > free_from and spaces[start - 1]:
            start, owed = start - 1, owed - 1
        while owed > 0 and piece.isspace() and end < len(spaces) and spaces[end]:
            end, owed = end + 1, owed - 1
        spans.append((start, end))
        free_from = max(free_from, end)
    untrimmed = np.array(spans, dtype=np.int64)
    return untrimmed[:, 0], untrimmed[:, 1]


def _give_away_gaps(spaces: BoolArray, starts: IntArray, ends: IntArray) -> tuple[IntArray, IntArray]:
    """Widen spans over characters that no token covers: forwards from the first space on, else backwards."""
    length = len(spaces)
    gap_starts, gap_ends = ends[:-1], starts[1:]
    is_gap = gap_ends > gap_starts
    new_start, new_end = np.arange(length + 1), np.arange(length + 1)
    if is_gap.any():
        next_space = np.append(np.where(spaces, np.arange(length), length), length)
        next_space = np.minimum.accumulate(next_space[::-1])[::-1]
        left, right = gap_starts[is_gap], gap_ends[is_gap]
        border = np.minimum(next_space[left], right)
        new_end[left], new_start[right] = border, border
    new_start[starts[0]] = 0
    new_end[ends[-1]] = length
    return new_start[starts], new_end[ends]


def _settle_overlaps(
    vocabulary: VocabularyBytes, data: bytes, token_ids: IntArray, starts: IntArray, ends: IntArray
) -> None:
    """Split what overlapping tokens spell between them, by bytes and in place; leave the rest as it is."""
    joined = starts[1:] < ends[:-1]
    edges = np.diff(np.concatenate([[False], joined, [False]]).astype(np.int8))
    for first, last in zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True):
        pieces = [vocabulary.pieces[number] for number in token_ids[first : last + 1].tolist()]
        block_start, block_end = int(starts[first]), int(ends[last])
        opens_segment = first == 0 or bool(vocabulary.added[token_ids[first - 1]])
        dummy = _dummy_spaces(pieces, data[block_start:block_end]) if opens_segment else 0
        if b"".join(pieces)[dummy:] == data[block_start:block_end]:
            borders = block_start - dummy + np.cumsum([len(piece) for piece in pieces])
            starts[first + 1 : last + 1], ends[first : last + 1] = borders[:-1], borders
        elif dummy and pieces[0] == b" ":
            # The dummy prefix stands for no text; what follows it may still spell its own part.
            starts[first], ends[first] = block_start, block_start
            rest = slice(first + 1, last + 1)
            _settle_overlaps_of_rest(vocabulary, data, token_ids[rest], starts[rest], ends[rest])


def _settle_overlaps_of_rest(
    vocabulary: VocabularyBytes, data: bytes, token_ids: IntArray, starts: IntArray, ends: IntArray
) -> None:
    pieces = [vocabulary.pieces[number] for number in token_ids.tolist()]
    if len(pieces) > 1 and b"".join(pieces) == data[starts[0] : ends[-1]]:
        borders = starts[0] + np.cumsum([len(piece) for piece in pieces])
        starts[1:], ends[:] = borders[:-1], borders


def _dummy_spaces(pieces: list[bytes], block: bytes) -> int:
    """Whether the first token spells one space more than the text has: the dummy prefix (1), or not (0)."""
    spelled = b"".join(pieces)
    leading = len(spelled) - len(spelled.lstrip(b" "))
    text = block.decode()
    return int(leading == len(text) - len(text.lstrip()) + 1)
