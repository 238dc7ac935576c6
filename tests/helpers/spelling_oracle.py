"""Right spans from the bytes of the tokens alone: no offsets are read.

A text is written down as units: stretches that a normaliser keeps together, each with the bytes that it makes of them.
The tokens are then laid along these bytes in all ways that the tokenizer's parts allow, of which there must be one.
"""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spelled:
    """What one token spells.

    Attributes:
        data: Its bytes, after the normaliser.
        added: Whether it is an added token.
        lstrip: Whether it takes the whitespace before it.
        rstrip: Whether it takes the whitespace after it.
        may_take_space: Whether it may also take a single space before it, as one whose own form starts with a space.
    """

    data: bytes
    added: bool = False
    lstrip: bool = False
    rstrip: bool = False
    may_take_space: bool = False


@dataclass(frozen=True)
class Splits:
    """How a pre-tokenizer cuts a text into words, each of which may get a space that the text has not.

    Attributes:
        drop_spaces: Whether words come without the whitespace before them.
        digits: Whether each digit is a word.
        doubles_spaces: Whether a word that starts with a space gets another.
    """

    drop_spaces: bool = False
    digits: bool = False
    doubles_spaces: bool = False

    def between(self, data: bytes, place: int) -> bool:
        """Whether a word may start at a byte."""
        if self.digits and (data[place : place + 1].isdigit() or data[place - 1 : place].isdigit()):
            return True
        return self.drop_spaces and data[place : place + 1].isspace()


@dataclass(frozen=True)
class Unit:
    """A stretch of a text that a normaliser keeps together: where it stands, in bytes, and what becomes of it."""

    start: int
    stop: int
    made: bytes
    kept: bool


def units_of(text: str, normalize: Callable[[str], str]) -> list[Unit]:
    """One unit for each letter with the marks that follow it."""
    clusters: list[str] = []
    for letter in text:
        if clusters and unicodedata.combining(letter):
            clusters[-1] += letter
        else:
            clusters.append(letter)
    units, place = [], 0
    for cluster in clusters:
        raw, made = cluster.encode(), normalize(cluster).encode()
        units.append(Unit(place, place + len(raw), made, raw == made))
        place += len(raw)
    return units


def right_spans(
    text: str, tokens: Sequence[Spelled], *, normalize: Callable[[str], str] = str, splits: Splits = Splits()
) -> list[tuple[int, int]]:
    """The byte span of each token of a text.

    Args:
        text: The text.
        tokens: What its tokens spell.
        normalize: What the normaliser makes of a letter.
        splits: How the pre-tokenizer cuts the text into words.
    """
    if not tokens:
        return []
    units = units_of(text, normalize)
    data = b"".join(unit.made for unit in units)
    ways = sorted(set(_lay(data, tokens, 0, 0, splits)))
    assert ways, (text, tokens)
    assert len(ways) == 1 or ways[0][0] < ways[1][0], (text, tokens, ways)
    _, best = ways[0]
    starts, stops = [], []
    for unit in units:
        for offset in range(len(unit.made)):
            starts.append(unit.start + offset if unit.kept else unit.start)
            stops.append(unit.start + offset + 1 if unit.kept else unit.stop)
    size = len(text.encode())
    edges = [*starts, size]
    return [(starts[start], stops[stop - 1]) if start < stop else (edges[start], edges[start]) for start, stop in best]


Way = tuple[int, tuple[tuple[int, int], ...]]
"""How many tokens spell a space that is not there, and where each token lies."""


def _lay(data: bytes, tokens: Sequence[Spelled], number: int, place: int, splits: Splits) -> Iterator[Way]:
    """All ways to lay the tokens from one on along the bytes from a place on, to the end of both."""
    if number == len(tokens):
        if place == len(data):
            yield 0, ()
        return
    for spare, start, stop in _choices(data, tokens, number, place, splits):
        if number == len(tokens) - 1 and splits.drop_spaces:
            stop = _past_spaces(data, stop)
        for others, rest in _lay(data, tokens, number + 1, stop, splits):
            yield spare + others, ((start, stop), *rest)


def _choices(
    data: bytes, tokens: Sequence[Spelled], number: int, place: int, splits: Splits
) -> Iterator[tuple[int, int, int]]:
    """Where one token may lie, and whether it spells a space too many there."""
    token = tokens[number]
    opens = number == 0 or tokens[number - 1].added or splits.between(data, place)
    following = tokens[number + 1] if number + 1 < len(tokens) else None
    solid = _past_spaces(data, place)
    if token.added:
        before = {solid} if token.lstrip or splits.drop_spaces else {place}
        if token.may_take_space and data[place : place + 1] == b" ":
            before.add(place + 1)
        for start in before:
            if data.startswith(token.data, start):
                stop = start + len(token.data)
                end = _past_spaces(data, stop) if token.rstrip else stop
                yield 0, place, end
                if stop < end and data[end - 1 : end] == b" " and following and following.data.startswith(b" "):
                    yield 0, place, end - 1  # the next token spells the space
        return
    start = solid if splits.drop_spaces else place
    if data.startswith(token.data, start):
        yield 0, place, start + len(token.data)
    if data[start : start + 1] == b" " and not splits.doubles_spaces:
        return
    if opens and token.data.startswith(b" ") and data.startswith(token.data[1:], start):
        yield int(data[place:start][-1:] != b" "), place, start + len(token.data) - 1


def _past_spaces(data: bytes, place: int) -> int:
    while place < len(data) and data[place : place + 1].isspace():
        place += 1
    return place
