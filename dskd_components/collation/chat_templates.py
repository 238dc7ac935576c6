"""Rendering a chat with a tokenizer's own template, so that the messages' contents are found in the outcome.

Searching for a content is not enough: ``user`` or ``s`` also stand in the template's own words. So the chat is rendered
a second time with a mark in place of each content. What stands between the marks is the template's, and the first
rendering must be exactly that with the contents, perhaps stripped, in between. Chats with the same roles share their
marks' rendering. Where a template looks at contents, so that this fails, a place still counts if it is the only one.
What the assistant's turns render beside their contents is found in the marks' rendering too, see `assistant_turns`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dskd_components.collation.assistant_turns import CALLS, THOUGHTS, TurnFinder, other_fields
from dskd_components.collation.content_places import (
    Place,
    Turn,
    after_contents,
    only_places,
    places_between,
    places_in_bytes,
    turn_in_text,
    turns_in_bytes,
)
from dskd_components.collation.messages import as_parts, reads_parts_alone
from dskd_components.collation.problems import SampleError, SkipReason, require_unicode
from dskd_components.collation.unread_arguments import unread_arguments
from dskd_components.errors import InputError, class_and_message
from dskd_components.tokenization.fast_tokenizers import backend_of
from dskd_components.tokenization.token_bytes import VocabularyBytes

MARK: Final = "xContentOfMessage{}x"
KNOWN_PATTERNS: Final = 1024
"""How many patterns of roles are remembered."""

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Rendered:
    """One side's text, and what it has of each message.

    Attributes:
        text: The text.
        places: Where it has each content.
        turns: Where it has each turn of the assistant; None for other messages, for turns that are empty, and for those
            that are in doubt and were not asked for.
        unread: What the template was told and does not read.
    """

    text: str
    places: tuple[Place, ...]
    turns: tuple[Turn | None, ...]
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Skeleton:
    """What a template writes beside contents.

    Attributes:
        literals: What stands before, between and after the contents.
        turns: For each turn, where it starts and stops: after how many contents, and how many characters later; and
            whether it is open.
    """

    literals: list[str]
    turns: list[tuple[tuple[int, int], tuple[int, int], bool] | None]


class ChatRenderer:
    """Renders chats with a tokenizer's template.

    Args:
        tokenizer: The tokenizer; it needs a template only once there is a chat.
        side: Whose it is, for messages.
    """

    def __init__(self, tokenizer: Any, side: str) -> None:
        self.tokenizer = tokenizer
        self.side = side
        self._skeletons: dict[str, _Skeleton | None] = {}
        self._unread: dict[str, tuple[str, ...]] = {}
        self._parts: dict[str, bool] = {}
        self._read_from: tuple[object, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is only remembered, so that copies of one renderer are equal."""
        return self.__dict__ | {"_skeletons": {}, "_unread": {}, "_parts": {}, "_read_from": ()}

    def refresh(self, vocabulary: VocabularyBytes) -> None:
        """Forget what is remembered if the template has changed, or what it reads of its tokenizer.

        Args:
            vocabulary: The tokenizer's vocabulary as it is now.
        """
        template = getattr(self.tokenizer, "chat_template", None)
        template = dict(template) if isinstance(template, Mapping) else template
        present = (template, getattr(self.tokenizer, "special_tokens_map", None), vocabulary)
        if present != self._read_from:
            self._skeletons, self._unread, self._parts, self._read_from = {}, {}, {}, present

    def render(
        self, messages: Messages, options: Mapping[str, Any] | None = None, turns: Sequence[int] = ()
    ) -> Rendered:
        """Return the rendered chat and the place of each message's content.

        Args:
            messages: The chat; contents are texts. A message without a content has an empty one.
            options: What the template is told beside them.
            turns: The numbers of the assistant's messages of which all that they render must be found.

        Raises:
            InputError: The tokenizer has no chat template.
            SampleError: The template refuses the chat, or a content or a turn cannot be found in the outcome.
        """
        options = options or {}
        text, messages = self._apply_leniently(messages, options)
        require_unicode([text])
        messages = self._without_notes(text, messages, options)
        contents = [message.get("content") or "" for message in messages]
        pattern = _pattern(messages, options, turns)
        skeleton = self._skeleton(pattern, messages, options, turns)
        found = None if skeleton is None else places_between(text, skeleton.literals, contents)
        if found is None and only_places(text, contents) is None:
            # A template may also write what it reads off a clock, so that what is remembered no longer fits.
            skeleton = self._marked(messages, options, turns)
            found = None if skeleton is None else places_between(text, skeleton.literals, contents)
        if found is not None and skeleton is not None:
            ranges = [
                # Whitespace that a template strips is an empty content, as ever.
                turn_in_text(turn, found) if last > first or other_fields(message) else None
                for turn, (_, first, last), message in zip(skeleton.turns, found, messages, strict=True)
            ]
        else:
            found = only_places(text, contents)
            if found is None:
                raise SampleError(SkipReason.CONTENT_ALTERED, self._altered(text, contents))
            places = [(start, start + last - first) for start, first, last in found]
            ranges = self._finder(messages, options, text, places).find(turns)
        unread = self._unread_of(pattern, text, messages, options)
        return Rendered(text, places_in_bytes(text, contents, found), turns_in_bytes(text, ranges), unread)

    def _apply_leniently(self, messages: Messages, options: Mapping[str, Any]) -> tuple[str, Messages]:
        """Render a chat, with an empty content for messages without one if the template does not do without."""
        try:
            return self._apply(messages, options), messages
        except SampleError:
            if all(message.get("content") is not None for message in messages):
                raise
            filled = [message if message.get("content") else {**message, "content": ""} for message in messages]
            return self._apply(filled, options), filled

    def _without_notes(self, text: str, messages: Messages, options: Mapping[str, Any]) -> Messages:
        """Leave out what is noted down in messages and not rendered, so that more chats are of one pattern."""
        known = ("role", "content", *CALLS, *THOUGHTS)
        bare = [{name: value for name, value in message.items() if name in known} for message in messages]
        if all(len(kept) == len(message) for kept, message in zip(bare, messages, strict=True)):
            return messages
        try:
            return bare if self._apply(bare, options) == text else messages
        except SampleError:
            return messages

    def _apply(self, messages: Messages, options: Mapping[str, Any], add_generation_prompt: bool = False) -> str:
        self._require_template(options)
        # transformers leaves out what is None since 5.23, as templates would write "None".
        given = [{key: value for key, value in message.items() if value is not None} for message in messages]
        if self._reads_parts(options):
            given = [{**message, "content": as_parts(message.get("content"))} for message in given]
        try:
            text: str = self.tokenizer.apply_chat_template(
                given, tokenize=False, add_generation_prompt=add_generation_prompt, **options
            )
        except ImportError as error:
            raise InputError(f"The {self.side}'s chat template cannot be rendered: {error}") from error
        except Exception as error:
            # A template may do anything with what a message has, so that errors of any type come out of it.
            raise SampleError(
                SkipReason.TEMPLATE_REFUSED,
                f"The {self.side}'s chat template refuses it: {class_and_message(error)}",
            ) from error
        return text

    def _require_template(self, options: Mapping[str, Any]) -> None:
        template = getattr(self.tokenizer, "chat_template", None)
        if not template:
            raise InputError(
                f"The {self.side}'s tokenizer ({type(self.tokenizer).__name__}) has no chat template. Set its "
                "chat_template, or pass prompt/response pairs."
            )
        if not isinstance(template, Mapping) or "default" in template or "chat_template" in options:
            return
        if "tools" not in options or "tool_use" not in template:
            raise InputError(
                f"The {self.side}'s tokenizer ({type(self.tokenizer).__name__}) has the chat templates "
                f"{', '.join(map(repr, sorted(template)))}, but none is named 'default'. Set its chat_template to the "
                "one to use."
            )

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

    def _finder(
        self, messages: Messages, options: Mapping[str, Any], text: str, places: Sequence[tuple[int, int]]
    ) -> TurnFinder:
        added = backend_of(self.tokenizer).get_added_tokens_decoder().values()
        specials = [token.content for token in added if token.special]
        specials.append(str(getattr(self.tokenizer, "eos_token", None) or ""))

        def apply(messages: Messages, add_generation_prompt: bool) -> str:
            return self._apply(messages, options, add_generation_prompt)

        return TurnFinder(self.side, apply, specials, messages, text, places)

    def _skeleton(
        self, pattern: str | None, messages: Messages, options: Mapping[str, Any], turns: Sequence[int]
    ) -> _Skeleton | None:
        """What the template writes beside the contents; None if marks do not come through."""
        if pattern is None:
            return self._marked(messages, options, turns)
        if pattern not in self._skeletons:
            if len(self._skeletons) >= KNOWN_PATTERNS:
                self._skeletons.clear()
            self._skeletons[pattern] = self._marked(messages, options, turns)
        return self._skeletons[pattern]

    def _unread_of(
        self, pattern: str | None, text: str, messages: Messages, options: Mapping[str, Any]
    ) -> tuple[str, ...]:
        """What the template is told and does not read, found once for each pattern."""
        if not options:
            return ()
        if pattern is not None and pattern in self._unread:
            return self._unread[pattern]

        def render(others: Mapping[str, Any]) -> str | None:
            if others is options:
                return text
            try:
                return self._apply(messages, others)
            except InputError:  # refused, or there is no template for a chat without tools
                return None

        source = self.tokenizer.get_chat_template(options.get("chat_template"), options.get("tools"))
        unread = unread_arguments(options, source, render)
        if pattern is not None:
            if len(self._unread) >= KNOWN_PATTERNS:
                self._unread.clear()
            self._unread[pattern] = unread
        return unread

    def _marked(self, messages: Messages, options: Mapping[str, Any], turns: Sequence[int]) -> _Skeleton | None:
        marks = [
            MARK.format(f"{number:06}") if message.get("content") else "" for number, message in enumerate(messages)
        ]
        marked = [
            {**message, "content": mark} if mark else message for message, mark in zip(messages, marks, strict=True)
        ]
        try:
            text = self._apply(marked, options)
        except SampleError:
            return None
        literals, places, cursor = [], [], 0
        for mark in marks:
            start = text.find(mark, cursor)
            if start < 0 or (mark and text.count(mark) > 1):
                return None
            literals.append(text[cursor:start])
            cursor = start + len(mark)
            places.append((start, cursor))
        found = self._finder(marked, options, text, places).find(turns)
        return _Skeleton(
            [*literals, text[cursor:]],
            [turn and (after_contents(turn[0], places), after_contents(turn[1], places), turn[2]) for turn in found],
        )

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


def _pattern(messages: Messages, options: Mapping[str, Any], turns: Sequence[int]) -> str | None:
    """What decides what a template writes beside contents; None if that cannot be told."""
    if any(callable(tool) for tool in options.get("tools", ())):
        # Another function may later have the name and the address of one that is gone.
        return None
    kinds = [{**message, "content": bool(message.get("content"))} for message in messages]
    whole = [kinds, dict(options), list(turns)]
    try:
        return json.dumps(whole, default=repr, sort_keys=True)
    except (TypeError, ValueError):  # keys that are no texts, or a loop
        return repr(whole)
