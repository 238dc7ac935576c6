"""Rendering a chat with a tokenizer's own template, and finding the messages' contents in the outcome.

Searching for a content is not enough: ``user`` or ``s`` also stand in the template's own words. So the chat is rendered
a second time with a mark in place of each content. What stands between the marks is the template's, and the first
rendering must be exactly that with the contents, perhaps stripped, in between. Chats with the same roles share their
marks' rendering. Where a template looks at contents, so that this fails, a place still counts if it is the only one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dskd_components.collation.content_parts import as_parts, reads_parts_alone
from dskd_components.collation.problems import SampleError, SkipReason
from dskd_components.errors import InputError

MARK: Final = "xContentOfMessage{}x"
KNOWN_PATTERNS: Final = 1024
"""How many patterns of roles are remembered."""

Messages = Sequence[Mapping[str, Any]]


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
class Rendered:
    """One side's text, and where it has each content."""

    text: str
    places: tuple[Place, ...]


class ChatRenderer:
    """Renders chats with a tokenizer's template.

    Args:
        tokenizer: The tokenizer; it needs a template only once there is a chat.
        side: Whose it is, for messages.
    """

    def __init__(self, tokenizer: Any, side: str) -> None:
        self.tokenizer = tokenizer
        self.side = side
        self._literals: dict[str, list[str] | None] = {}
        self._parts: dict[str, bool] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is only remembered, so that copies of one renderer are equal."""
        return self.__dict__ | {"_literals": {}, "_parts": {}}

    def render(self, messages: Messages, options: Mapping[str, Any] | None = None) -> Rendered:
        """Return the rendered chat and the place of each message's content.

        Args:
            messages: The messages; contents are texts.
            options: What the template is told beside them.

        Raises:
            InputError: The tokenizer has no chat template.
            SampleError: The template refuses the chat, or a content cannot be found in the outcome.
        """
        options = options or {}
        text = self._apply(messages, options)
        contents = [message["content"] or "" for message in messages]
        literals = self._between_contents(messages, options)
        found = None if literals is None else _between(text, literals, contents)
        found = found or _only_places(text, contents)
        if found is None:
            raise SampleError(SkipReason.CONTENT_ALTERED, self._altered(text, contents))
        return Rendered(text, _in_bytes(text, contents, found))

    def _apply(self, messages: Messages, options: Mapping[str, Any]) -> str:
        if not getattr(self.tokenizer, "chat_template", None):
            raise InputError(
                f"The {self.side}'s tokenizer ({type(self.tokenizer).__name__}) has no chat template. Set its "
                "chat_template, or pass prompt/response pairs."
            )
        if self._reads_parts(options):
            messages = [{**message, "content": as_parts(message.get("content"))} for message in messages]
        try:
            text: str = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, **options
            )
        except Exception as error:
            # A template raises errors of jinja2, which is not ours to import.
            if not type(error).__module__.startswith("jinja2"):
                raise
            raise SampleError(
                SkipReason.TEMPLATE_REFUSED, f"The {self.side}'s chat template refuses it: {error}"
            ) from error
        return text

    def _reads_parts(self, options: Mapping[str, Any]) -> bool:
        """Whether the template reads contents as lists of parts alone."""
        own = {name: value for name, value in options.items() if name == "chat_template"}
        template = own.get("chat_template", self.tokenizer.chat_template)
        template = template if isinstance(template, str) else repr(template)
        if template not in self._parts:
            self._parts[template] = reads_parts_alone(
                lambda messages: self.tokenizer.apply_chat_template(messages, tokenize=False, **own)
            )
        return self._parts[template]

    def _between_contents(self, messages: Messages, options: Mapping[str, Any]) -> list[str] | None:
        """What the template puts before, between and after the contents; None if the marks do not come through."""
        if any(callable(tool) for tool in options.get("tools", ())):
            # Another function may later have the name and the address of one that is gone.
            return self._marked(messages, options)
        pattern = json.dumps(
            [*({**message, "content": bool(message["content"])} for message in messages), dict(options)],
            default=repr,
            sort_keys=True,
        )
        if pattern not in self._literals:
            if len(self._literals) >= KNOWN_PATTERNS:
                self._literals.clear()
            self._literals[pattern] = self._marked(messages, options)
        return self._literals[pattern]

    def _marked(self, messages: Messages, options: Mapping[str, Any]) -> list[str] | None:
        marks = [MARK.format(f"{number:06}") if message["content"] else "" for number, message in enumerate(messages)]
        try:
            marked = [{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)]
            rest = self._apply(marked, options)
        except SampleError:
            return None
        literals = []
        for mark in marks:
            if not mark:
                literals.append("")
                continue
            before, found, rest = rest.partition(mark)
            if not found or mark in rest:
                return None
            literals.append(before)
        return [*literals, rest]

    def _altered(self, text: str, contents: list[str]) -> str:
        missing = [number for number, content in enumerate(contents) if content.strip() not in text]
        what = (
            f"the content of message {missing[0]} does not stand in it"
            if missing
            else "its contents stand in it in several places or in another order"
        )
        return (
            f"The {self.side}'s chat template alters the messages, so that {what}: {text!r:.200}. Use a template that "
            "keeps contents, or change the messages."
        )


Found = list[tuple[int, int, int]]
"""For each content: the character at which it stands, and from which to which of its characters it stands there."""


def _variants(content: str) -> list[tuple[int, int]]:
    """The parts of a content that a template may leave of it: all, or without whitespace on either side."""
    size, left = len(content), len(content) - len(content.lstrip())
    right = len(content.rstrip())
    if left >= right:
        return [(0, size), (0, 0)]
    newlines = (size - len(content.lstrip("\n")), len(content.rstrip("\n")))
    return list(dict.fromkeys([(0, size), (left, right), (left, size), (0, right), newlines]))


def _between(text: str, literals: list[str], contents: list[str]) -> Found | None:
    """The contents' places if the text is exactly the literals with the contents in between."""
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


def _only_places(text: str, contents: list[str]) -> Found | None:
    """The contents' places if there is but one way to find them all in order."""
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


def _in_bytes(text: str, contents: list[str], found: Found) -> tuple[Place, ...]:
    places, characters, position = [], 0, 0
    for content, (start, first, last) in zip(contents, found, strict=True):
        position += len(text[characters:start].encode())
        characters = start
        skipped = len(content[:first].encode())
        places.append(Place(position, skipped, skipped + len(content[first:last].encode())))
    return tuple(places)
