"""Right spans and right pairs, worked out the slow way: one character and one pair at a time.

Nothing here is shared with the library: token bytes come from a table of their own, spans from a walk over
single characters, pairs from comparing every token with every other.
"""

from functools import cache
from itertools import accumulate
from typing import Any

from tokenizers import Tokenizer, processors

from examples.offline.tokenizers import byte_glyphs

BYTE_OF_GLYPH = {glyph: byte for byte, glyph in byte_glyphs().items()}


@cache
def added_tokens(tokenizer: Any) -> dict[int, Any]:
    return dict(tokenizer.added_tokens_decoder)


def spelled(tokenizer: Any, number: int) -> bytes:
    """What a token spells, byte for byte."""
    added = added_tokens(tokenizer)
    token = tokenizer.convert_ids_to_tokens(number)
    if number in added:
        return added[number].content.encode()
    kind = type(tokenizer.backend_tokenizer.model).__name__
    if kind == "WordPiece":
        return token.removeprefix("##").encode()
    if "ByteLevel" in str(tokenizer.backend_tokenizer.pre_tokenizer):
        return bytes(BYTE_OF_GLYPH[letter] for letter in token)
    if token[:3] == "<0x" and token[-1] == ">" and len(token) == 6:
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


@cache
def untrimmed(tokenizer: Any) -> Tokenizer:
    """A copy of the tokenizer without the post-processor, which may take spaces out of the offsets."""
    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.post_processor = processors.Sequence([])
    return copy


def right_spans(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """The byte span of every token of a text, template tokens left out."""
    encoding = untrimmed(tokenizer).encode(text, add_special_tokens=False)
    pieces = [spelled(tokenizer, number) for number in encoding.ids]
    spans = [list(offsets) for offsets in encoding.offsets]
    added = [number in added_tokens(tokenizer) for number in encoding.ids]
    fill_gaps(text, spans)
    place = [0, *accumulate(len(letter.encode()) for letter in text)]
    spans = [[place[start], place[stop]] for start, stop in spans]
    data = text.encode()
    index = 0
    while index < len(spans):
        stop = index + 1
        while stop < len(spans) and spans[stop][0] < max(end for _, end in spans[index:stop]):
            stop += 1
        if stop - index > 1:
            settle(data, pieces[index:stop], spans, index, index == 0 or added[index - 1])
        index = stop
    return [(start, end) for start, end in spans]


def fill_gaps(text: str, spans: list[list[int]]) -> None:
    """Hand characters that no token covers to the next token from a space on, else to the previous."""
    if not spans:
        return
    covered = [False] * len(text)
    for start, stop in spans:
        covered[start:stop] = [True] * (stop - start)
    while False in covered:
        place = covered.index(False)
        stop = next((end for end in range(place, len(text)) if covered[end]), len(text))
        covered[place:stop] = [True] * (stop - place)
        fill_gap(text, spans, place, stop)


def fill_gap(text: str, spans: list[list[int]], place: int, stop: int) -> None:
    before = [span for span in spans if span[1] <= place and span[0] < stop]
    after = [span for span in spans if span[0] >= stop]
    border = place
    while border < stop and not text[border].isspace():
        border += 1
    border = stop if not after else place if not before else border
    for span in before:
        if span[1] == place:
            span[1] = border
    for span in after:
        if span[0] == stop:
            span[0] = border


def settle(data: bytes, pieces: list[bytes], spans: list[list[int]], first: int, opens: bool) -> None:
    """Spans of tokens that share characters: spelled out if they spell the text, else left shared."""
    begin, end = spans[first][0], max(stop for _, stop in spans[first : first + len(pieces)])
    target = data[begin:end]
    whole = b"".join(pieces)
    spare = whole.startswith(b" ") and opens
    if whole == target:
        place = begin
    elif spare and whole[1:] == target:
        place = begin - 1
    elif spare and pieces[0] == b" " and not target.decode()[0].isspace():
        spans[first][:] = [begin, begin]
        return
    else:
        return
    for number, piece in enumerate(pieces):
        spans[first + number][:] = [max(place, begin), place + len(piece)]
        place += len(piece)


def core(data: bytes, span: tuple[int, int]) -> tuple[int, int]:
    start, stop = span
    while start < stop and data[start : start + 1] == b" ":
        start += 1
    return (start, stop) if start < stop else span


def lone_cores(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int] | None]:
    """Each token's span without leading spaces; None if it is empty or shares bytes with another token."""
    data = text.encode()
    owners = [0] * len(data)
    for start, stop in spans:
        for place in range(start, stop):
            owners[place] += 1
    return [
        core(data, (start, stop)) if start < stop and max(owners[start:stop]) == 1 else None for start, stop in spans
    ]


def right_pairs(student: list[tuple[int, int] | None], teacher: list[tuple[int, int] | None]) -> set[tuple[int, int]]:
    """All pairs of tokens with the same `lone_cores`."""
    where = {span: number for number, span in enumerate(teacher) if span is not None}
    assert len(where) == sum(span is not None for span in teacher)
    return {(number, where[span]) for number, span in enumerate(student) if span is not None and span in where}
