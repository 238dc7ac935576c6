"""Where a rendered chat has what each of the assistant's turns renders, from its header to its end.

A content is not all that a turn renders: there are tool calls, thoughts, and what the template puts around them. What
the turn renders is told from other renderings of the same chat:

- It **starts** where the generation prompt ends, which is what a model continues. Templates without one do not tell the
  header of a turn from its text; what stands before the content is the header then, if it is more than whitespace.
- It **stops** where the chat up to this turn stops, or, for the last turn, where a further message makes no difference.
  What a template writes after the last message alone, be it an EOS of the chat, is special tokens and does not count.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import cached_property
from typing import Any, Final

from dskd_components.collation.problems import SampleError, SkipReason

Messages = Sequence[Mapping[str, Any]]
Range = tuple[int, int]
"""From which character to which, exclusive."""
FoundTurn = tuple[int, int, bool]
"""From which character to which a turn is, and whether no text of the template's ends it."""

PLAIN: Final = "xContentOfAnswerx"
NEXT: Final = "xContentOfNextx"
CALLS: Final = ("tool_calls", "function_call")
THOUGHTS: Final = ("reasoning_content", "reasoning", "thinking")


def other_fields(message: Mapping[str, Any]) -> list[str]:
    """What a message has beside its role and its content, if it is not empty."""
    return [str(name) for name, value in message.items() if name not in ("role", "content") and value]


class TurnFinder:
    """Finds the turns of one chat.

    Args:
        side: Whose chat template it is, for messages.
        apply: Renders messages, with the generation prompt or without. It raises a `SampleError` for those that the
            template refuses.
        special_tokens: The special tokens of the tokenizer.
        messages: The chat.
        text: The chat as it is rendered.
        places: Where the text has each content; an empty range for an empty content.
    """

    def __init__(
        self,
        side: str,
        apply: Callable[[Messages, bool], str],
        special_tokens: Sequence[str],
        messages: Messages,
        text: str,
        places: Sequence[Range],
    ) -> None:
        self.side = side
        self.apply = apply
        self.messages = messages
        self.text = text
        self.places = places
        by_length = sorted(filter(None, special_tokens), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, by_length)) or "(?!)")
        self._longest = max(map(len, by_length), default=0)
        self._known: dict[tuple[int, bool], str | None] = {}

    def find(self, wanted: Sequence[int]) -> list[FoundTurn | None]:
        """Return what the text has of each of the assistant's messages; None for others, and for empty turns.

        Args:
            wanted: The numbers of the messages whose turns must be found; for others, None stands for a doubt, too.

        Raises:
            SampleError: The template leaves in doubt where a turn starts or stops, or leaves out its tool calls.
        """
        turns: list[FoundTurn | None] = [None] * len(self.messages)
        low = 0
        for number, message in enumerate(self.messages):
            if message["role"] == "assistant":
                # Even an empty turn has a header, which is not to be taken for that of a later one.
                is_required = number in wanted and (message.get("content") or other_fields(message))
                with nullcontext() if is_required else suppress(SampleError):
                    found = self._turn(number, low, turns)
                    low = max(low, found[1])
                    turns[number] = self._with_content(number, found)
            low = max(low, 0 if self._is_empty(number) else self.places[number][1])
        return turns

    def _turn(self, number: int, low: int, turns: Sequence[FoundTurn | None]) -> FoundTurn:
        high = self._high(number)
        start = self._start(number, low, high, turns)
        stop = self._stop(number, start, high)
        return start, stop, self._is_open(number, start, stop)

    def _with_content(self, number: int, turn: FoundTurn) -> FoundTurn | None:
        """A turn if it renders more than its end."""
        is_bare = self._is_empty(number) and self._is_bare(self.text[turn[0] : turn[1]])
        self._require_calls(number, turn)
        if is_bare:
            self._require_rendered(number)
        says = self.messages[number].get("content") or other_fields(self.messages[number])
        return turn if says and not is_bare else None

    def _high(self, number: int) -> int:
        """Where the next content starts."""
        later = range(number + 1, len(self.messages))
        return min([len(self.text), *(self.places[other][0] for other in later if not self._is_empty(other))])

    def _is_empty(self, number: int) -> bool:
        return self.places[number][0] == self.places[number][1]

    def _is_bare(self, text: str) -> bool:
        """Whether a text is special tokens and whitespace only."""
        return not self._special.sub("", text).strip()

    def _common(self, left: str, right: str) -> int:
        """How many characters two texts have in common from the first on, without parting a special token."""
        size = _common_prefix(left, right)
        for text in (left, right):
            for match in self._special.finditer(text, max(size - self._longest, 0)):
                if match.start() < size < match.end():
                    size = match.start()
                if match.end() >= size:
                    break
        return size

    # Other renderings.

    def _try(self, messages: Messages, prompt: bool = False) -> str | None:
        try:
            return self.apply(messages, prompt)
        except SampleError:
            return None

    def _up_to(self, count: int, prompt: bool = False) -> str | None:
        """So many of the messages; None if the template refuses them."""
        if (count, prompt) not in self._known:
            self._known[count, prompt] = self._try(self.messages[:count], prompt)
        return self._known[count, prompt]

    def _plain(self, number: int) -> dict[str, Any]:
        return {"role": self.messages[number]["role"], "content": PLAIN}

    # Where a turn starts.

    def _start(self, number: int, low: int, high: int, turns: Sequence[FoundTurn | None]) -> int:
        first = high if self._is_empty(number) else self.places[number][0]
        header = self._generation_prompt(number)
        if header:
            prompt = self._up_to(number, True)
            if prompt is not None and low <= len(prompt) <= first and self.text.startswith(prompt):
                return len(prompt)
            # Earlier turns may be rendered otherwise once later ones follow: thoughts are left out. And a prompt may
            # go further than a header, for a model to think: the turn starts where it departs from it.
            for part in self._beginnings(header):
                found = self.text.find(part, low, first)
                if found >= 0 and self._is_plain(number, self.text[low : found + len(part)]):
                    return found + len(part)
        stop = self._header_stop(number, first)
        before = self._up_to(number)
        if before is not None and low <= len(before) <= stop and self.text.startswith(before):
            base = len(before)
        elif number == 0:
            base = max([low, *(match.end() for match in self._special.finditer(self.text[:stop]))])
        else:
            # A template may join the turn to one before it.
            joined = turns[number - 1]
            base = joined[1] if joined else stop
        return base if not self.text[base:stop].strip() else stop

    def _generation_prompt(self, number: int) -> str:
        """What the template adds for an answer of the assistant, empty if it adds nothing but whitespace."""
        usual, prompt = self._usual_prompt, self._up_to(number, True)
        if prompt is None or (usual and prompt.endswith(usual)):
            # Some templates refuse a chat that ends here.
            return usual
        return self._added(self._up_to(number), prompt)

    @cached_property
    def _usual_prompt(self) -> str:
        question = [{"role": "user", "content": PLAIN}]
        return self._added(self._try(question), self._try(question, True))

    def _added(self, before: str | None, prompt: str | None) -> str:
        added = "" if before is None or prompt is None else prompt[self._common(before, prompt) :]
        return added if added.strip() else ""

    def _beginnings(self, header: str) -> list[str]:
        """A header, and what it begins with up to a special token or the end of a line; the longest one first."""
        stops = {match.end() for match in re.finditer(rf"{self._special.pattern}|\n", header)} | {len(header)}
        beginnings = [header[:stop] for stop in sorted(stops, reverse=True)]
        # Special tokens alone stand before messages of other roles too.
        return [part for part in beginnings if part == header or not self._is_bare(part)]

    def _is_plain(self, number: int, header: str) -> bool:
        """Whether a header has nothing of what the turn has beside a content."""
        if not other_fields(self.messages[number]):
            return True
        plain = self._try([*self.messages[:number], self._plain(number)])
        return plain is not None and header in plain

    def _header_stop(self, number: int, first: int) -> int:
        """Where the header stops according to the same turn with a content alone."""
        if not other_fields(self.messages[number]) and not self._is_empty(number):
            return first
        plain = self._try([*self.messages[:number], self._plain(number)])
        stop = -1 if plain is None else plain.rfind(PLAIN)
        if plain is None or not 0 <= stop <= first or not self.text.startswith(plain[:stop]):
            raise self._doubt(number, "starts")
        return stop

    # Where a turn stops.

    def _stop(self, number: int, start: int, high: int) -> int:
        origin = start if self._is_empty(number) else self.places[number][1]
        rest = self.text[origin:high]
        for other in self._comparable(number):
            at = self._same_place(number, origin, other)
            if at is None:
                continue
            size = self._common(rest, other[at:])
            if self._is_bare(rest[size:] if number == len(self.messages) - 1 else other[at + size :]):
                return origin + size
        end = self._plain_end(number)
        found = rest.find(end.rstrip()) if end.strip() else -1
        if found >= 0:
            return origin + found + self._common(rest[found:], end)
        if number == len(self.messages) - 1 and self._followed(self.messages) is None:
            return high
        ends_here = None if other_fields(self.messages[number]) else re.match(rf"\s*(?:{self._special.pattern})", rest)
        if ends_here is None:
            raise self._doubt(number, "ends")
        return origin + ends_here.end()

    def _is_open(self, number: int, start: int, stop: int) -> bool:
        """Whether the template puts no text of its own after the turn, so that a special token that follows ends it."""
        end = self.text[start if self._is_empty(number) else self.places[number][1] : stop]
        if end.strip() and other_fields(self.messages[number]):
            end = self._plain_end(number)
        return not end.strip()

    def _comparable(self, number: int) -> Iterator[str]:
        """Renderings of the turn that differ from the text in what follows it."""
        is_last = number == len(self.messages) - 1
        other = self._followed(self.messages) if is_last else self._up_to(number + 1)
        if other is not None:
            yield other
        kept = self._without_thoughts(number)
        if kept is not None:
            messages = [*self.messages[:number], kept]
            other = self._followed(messages) if is_last else self._try(messages)
            if other is not None:
                yield other

    def _without_thoughts(self, number: int) -> Mapping[str, Any] | None:
        """The message without its thoughts, which some templates leave out once other messages follow."""
        message = self.messages[number]
        kept = {name: value for name, value in message.items() if name not in THOUGHTS}
        return kept if len(kept) < len(message) else None

    def _followed(self, messages: Messages) -> str | None:
        return self._try([*messages, {"role": "user", "content": NEXT}])

    def _same_place(self, number: int, origin: int, other: str) -> int | None:
        """Where another rendering of the chat has got to what stands at a place of the text."""
        if other.startswith(self.text[:origin]):
            return origin
        content = self.text[slice(*self.places[number])]
        found = other.rfind(content) if content else -1
        return found + len(content) if found >= 0 else None

    def _plain_end(self, number: int) -> str:
        """What the template puts after a turn with a content alone; empty if that is in doubt."""
        messages = [*self.messages[:number], self._plain(number)]
        alone, followed = self._try(messages), self._followed(messages)
        if alone is None or followed is None or PLAIN not in alone or PLAIN not in followed:
            return ""
        ends = [text.rpartition(PLAIN)[2] for text in (alone, followed)]
        size = self._common(*ends)
        return ends[0][:size] if self._is_bare(ends[0][size:]) else ""

    # What is refused.

    def _require_calls(self, number: int, turn: FoundTurn) -> None:
        """Refuse a turn whose calls are not rendered: it would be learned as if there were none."""
        message = self.messages[number]
        first, last = self.places[number]
        own = self.text[turn[0] : first] + self.text[max(last, turn[0]) : turn[1]]
        for name in CALLS:
            if not message.get(name):
                continue
            called = _names(message[name])
            if called and all(map(own.__contains__, called)) and self._without_thoughts(number) is None:
                continue
            without = {key: value for key, value in message.items() if key != name}
            whole = self._up_to(number + 1)
            if whole is not None and whole == self._try([*self.messages[:number], without]):
                raise self._left_out(number, [name])

    def _require_rendered(self, number: int) -> None:
        names = [name for name in (*CALLS, *THOUGHTS) if self.messages[number].get(name)]
        if names:
            raise self._left_out(number, names)

    def _left_out(self, number: int, names: Sequence[str]) -> SampleError:
        return SampleError(
            SkipReason.CONTENT_ALTERED,
            f"The {self.side}'s chat template leaves out {' and '.join(map(repr, names))} of message {number}, so that "
            "it would not be learned. Use a template that renders it, or remove it from the messages.",
        )

    def _doubt(self, number: int, what: str) -> SampleError:
        fields = other_fields(self.messages[number])
        beside = f", which has {' and '.join(map(repr, fields))} beside its content" if fields else ""
        advice = f"remove {' and '.join(map(repr, fields))}" if fields else "pass prompt/response pairs"
        return SampleError(
            SkipReason.CONTENT_ALTERED,
            f"The {self.side}'s chat template leaves in doubt where the turn of message {number} {what}{beside}. Use a "
            f"template with a generation prompt and special tokens that end turns, or {advice}.",
        )


def _common_prefix(left: str, right: str) -> int:
    """How many characters two texts begin with alike, by halves: texts are long."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _names(calls: Any) -> list[str]:
    """The names of functions that are called, as far as calls have the usual form."""
    found = []
    for call in calls if isinstance(calls, Sequence) else [calls]:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if isinstance(name, str) and name:
            found.append(name)
    return found
