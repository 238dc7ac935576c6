"""Byte spans from a tokenizer's own character offsets, where its tokens do not spell out the text.

That is so for tokenizers that change the text: lower case, Unicode normalisation, dropped characters. Their
offsets are right as far as they go. What they leave open, and is settled here: characters that no token
covers, several tokens on one character, and spaces that a post-processor took out.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from dskd_components.errors import InputError
from dskd_components.tokenization.arrays import BoolArray, IntArray
from dskd_components.tokenization.token_bytes import OffsetTrimming, VocabularyBytes

TRIMMED: Final = (
    "Ġ\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""What post-processors take for spaces: byte-level BPE's letter for one, and all of Unicode's whitespace."""

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
    # Offsets that go backwards are widened until they do not.
    starts = np.minimum.accumulate(starts[::-1])[::-1]
    ends = np.maximum.accumulate(np.maximum(starts, ends))
    starts, ends = _give_away_gaps(spaces, starts, ends)
    _return_stripped_spaces(vocabulary, text, token_ids, starts, ends)
    position = _byte_positions(codes)
    starts, ends = position[starts], position[ends]
    if np.any(starts[1:] < ends[:-1]):
        _settle_overlaps(vocabulary, text.encode(), token_ids, starts, ends)
    return starts, ends


def _byte_positions(codes: npt.NDArray[np.uint32]) -> IntArray:
    """Where each character starts in UTF-8, and where the text ends."""
    widths = 1 + (codes > 0x7F) + (codes > 0x7FF).astype(np.int64) + (codes > 0xFFFF)
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(widths)])


def untrimmed(trimming: OffsetTrimming, tokens: Sequence[str], offsets: IntArray, length: int) -> IntArray:
    """Offsets as they were before a post-processor took the spaces of each token out of them.

    It adds the number of a token's leading spaces to its start, and takes that of its trailing ones from its end,
    whether or not these are spaces of the text: the prefix space that a pre-tokenizer puts in is none. So the same
    numbers are given back, and the text is not asked.

    Args:
        trimming: What the post-processor does.
        tokens: The token strings of a text as the encoding has them: an added token's has the whitespace around it
            that it strips.
        offsets: Their character offsets ``[T, 2]``.
        length: How many characters the text has.

    Returns:
        The offsets ``[T, 2]``, within the text.
    """
    given = offsets.copy()
    for index, (token, (start, end)) in enumerate(zip(tokens, offsets.tolist(), strict=True)):
        leading = len(token) - len(token.lstrip(TRIMMED))
        trailing = len(token) - len(token.rstrip(TRIMMED))
        if not leading and not trailing:
            continue
        if leading == 1 and trimming.keeps_prefix and index == 0:
            leading = 0
        # A start that was moved as far as the end has left nothing to take from the end.
        untouched_end = leading == len(token) and start == end
        given[index] = start - leading, end if untouched_end else end + trailing
    return np.clip(given, 0, length)


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


def _return_stripped_spaces(
    vocabulary: VocabularyBytes, text: str, token_ids: IntArray, starts: IntArray, ends: IntArray
) -> None:
    """Hand a space that an added token stripped to the token after it that spells one, in place.

    To the tokenizer that one is a dummy prefix; by bytes, the two tokens spell what stands there.
    """
    for index in np.flatnonzero(vocabulary.added[token_ids[:-1]]).tolist():
        border = int(ends[index])
        strips = text[border - 1 : border] == " " and not vocabulary.pieces[token_ids[index]].endswith(b" ")
        piece = vocabulary.pieces[token_ids[index + 1]]
        if strips and starts[index + 1] == border and piece.startswith(b" ") and text[border : border + 1] != " ":
            ends[index] -= 1
            starts[index + 1] -= 1
            if piece == b" ":
                ends[index + 1] = border


def _settle_overlaps(
    vocabulary: VocabularyBytes, data: bytes, token_ids: IntArray, starts: IntArray, ends: IntArray
) -> None:
    """Split what overlapping tokens spell between them, by bytes and in place; leave the rest as it is."""
    joined = starts[1:] < ends[:-1]
    edges = np.diff(np.concatenate([[False], joined, [False]]).astype(np.int8))
    for first, last in zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True):
        block = slice(first, last + 1)
        pieces = [vocabulary.pieces[number] for number in token_ids[block].tolist()]
        _settle_block(data, pieces, starts[block], ends[block])


def _settle_block(data: bytes, pieces: list[bytes], starts: IntArray, ends: IntArray) -> None:
    """Split what tokens spell between them, each of which overlaps the next, in place."""
    start = int(starts[0])
    block, spelled = data[start : int(ends[-1])], b"".join(pieces)
    if spelled in (block, b" " + block):
        borders = start + len(block) - len(spelled) + np.cumsum([len(piece) for piece in pieces])
        starts[1:], ends[:] = borders[:-1], borders
        return
    marked = _marked_by_space(pieces, block)
    if marked is not None:
        # The rest may still spell its own part.
        ends[0] = start + marked
        starts[1:] = np.maximum(starts[1:], ends[0])
        if b"".join(pieces[1:]) == data[int(starts[1]) : int(ends[-1])]:
            borders = int(starts[1]) + np.cumsum([len(piece) for piece in pieces[1:]])
            starts[2:], ends[1:] = borders[:-1], borders


def _marked_by_space(pieces: list[bytes], block: bytes) -> int | None:
    """How much of a block a first token of a single space stands for, in bytes; None if it is no word's mark.

    Such a token marks a word. It stands for the whitespace before the word if the tokens after it spell none, else
    for no text: it is a dummy prefix.
    """
    if pieces[0] != b" " or block.isspace():
        return None
    text, spelled = block.decode(), b"".join(pieces)
    whitespace = text[: len(text) - len(text.lstrip())]
    leading = len(spelled) - len(spelled.lstrip(b" "))
    if whitespace and not spelled[1:2].isspace():
        return len(whitespace.encode())
    return 0 if leading == len(whitespace) + 1 else None
