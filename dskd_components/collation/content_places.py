"""Where a rendered chat has its messages' contents and the assistant's turns: found as characters, told as bytes."""

from collections.abc import Sequence
from dataclasses import dataclass

from dskd_components.collation.assistant_turns import FoundTurn


@dataclass(frozen=True)
class Place:
    """Where a text has a content.

    Attributes:
        start: Where it stands in the text, in bytes.
        first: The first byte of the content that stands there; not 0 if leading whitespace was stripped.
        last: The end, exclusive, of what stands there.
    """

    start: int
    first: int
    last: int

    @property
    def stop(self) -> int:
        """Where it ends in the text, in bytes."""
        return self.start + self.last - self.first


@dataclass(frozen=True)
class Turn:
    """Where a text has all that a turn of the assistant renders after its header.

    Attributes:
        start: Where it starts in the text, in bytes.
        stop: Where it stops, exclusive.
        is_open: Whether the template puts nothing after it, so that a special token that follows ends it.
    """

    start: int
    stop: int
    is_open: bool


Found = list[tuple[int, int, int]]
"""For each content: the character at which it stands, and from which to which of its characters it stands there."""


def places_between(text: str, literals: list[str], contents: list[str]) -> Found | None:
    """Return the contents' places if the text is exactly the literals with the contents in between; else None.

    Args:
        text: What a template has written.
        literals: What it writes before, between and after contents.
        contents: The contents, of which it may strip whitespace.

    Examples:
        >>> places_between("<u>hi</u>", ["<u>", "</u>"], [" hi"])
        [(3, 1, 3)]
    """
    cursor = len(literals[0])
    if not text.startswith(literals[0]):
        return None
    found: Found = []
    for content, literal in zip(contents, literals[1:], strict=True):
        for first, last in _variants(content):
            if text.startswith(content[first:last] + literal, cursor):
                found.append((cursor, first, last))
                cursor += last - first + len(literal)
                break
        else:
            return None
    return found if cursor == len(text) else None


def _variants(content: str) -> list[tuple[int, int]]:
    """Return the parts of a content that a template may leave of it: all, or without whitespace on either side."""
    size, left = len(content), len(content) - len(content.lstrip())
    right = len(content.rstrip())
    if left >= right:
        return [(0, size), (0, 0)]
    newlines = (size - len(content.lstrip("\n")), len(content.rstrip("\n")))
    return list(dict.fromkeys([(0, size), (left, right), (left, size), (0, right), newlines]))


def only_places(text: str, contents: list[str]) -> Found | None:
    """Return the contents' places if there is but one way to find them all in order; else None.

    Args:
        text: What a template has written.
        contents: The contents, without regard for whitespace on either side.

    Examples:
        >>> only_places("user: hi", [" hi"]), only_places("user: us", ["us"])
        ([(6, 1, 3)], None)
    """
    stripped = [(content.strip(), len(content) - len(content.lstrip())) for content in contents]
    from_left, cursor = [], 0
    for content, _ in stripped:
        start = text.find(content, cursor)
        if start < 0:
            return None
        from_left.append(start)
        cursor = start + len(content)
    stop = len(text)
    for (content, _), start in zip(reversed(stripped), reversed(from_left), strict=True):
        if content:
            if text.rfind(content, 0, stop) != start:
                return None
            stop = start
    return [
        (start, left if content else 0, left + len(content) if content else 0)
        for start, (content, left) in zip(from_left, stripped, strict=True)
    ]


def after_contents(position: int, places: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return how many contents stand before a position, and how many characters after the last of them it is.

    Args:
        position: A character of a text.
        places: Where each content starts and stops there.
    """
    count = sum(stop <= position for _, stop in places)
    return count, position - (places[count - 1][1] if count else 0)


def turn_in_text(turn: tuple[tuple[int, int], tuple[int, int], bool] | None, found: Found) -> FoundTurn | None:
    """Return where a turn that is told by the contents before it starts and stops in a text, and whether it is open.

    Args:
        turn: Its two ends, as `after_contents` tells them, and whether it is open; None: there is none.
        found: Where the text has the contents.
    """
    if turn is None:
        return None
    ends = [0, *(start + last - first for start, first, last in found)]
    (before, start), (until, stop), is_open = turn
    return ends[before] + start, ends[until] + stop, is_open


def places_in_bytes(text: str, contents: list[str], found: Found) -> tuple[Place, ...]:
    """Return the same places, counted in bytes.

    Args:
        text: The text.
        contents: The contents.
        found: Where it has them, in characters.
    """
    places, characters, position = [], 0, 0
    for content, (start, first, last) in zip(contents, found, strict=True):
        position += len(text[characters:start].encode())
        characters = start
        skipped = len(content[:first].encode())
        places.append(Place(position, skipped, skipped + len(content[first:last].encode())))
    return tuple(places)


def turns_in_bytes(text: str, turns: Sequence[FoundTurn | None]) -> tuple[Turn | None, ...]:
    """Return the same turns, counted in bytes.

    Args:
        text: The text.
        turns: Where it has them, in characters.
    """
    if text.isascii():
        return tuple(turn and Turn(*turn) for turn in turns)
    return tuple(turn and Turn(len(text[: turn[0]].encode()), len(text[: turn[1]].encode()), turn[2]) for turn in turns)
