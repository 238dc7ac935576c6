"""The three forms of a sample, and how they are told apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dskd_components.errors import ConfigurationError, InputError, did_you_mean


@dataclass(frozen=True)
class TextSample:
    """A text; every token of it is scored."""

    text: str


@dataclass(frozen=True)
class PairSample:
    """A prompt and a response, tokenized as one text."""

    prompt: str
    response: str


@dataclass(frozen=True)
class ChatSample:
    """Chat messages, each a mapping with ``role`` and ``content``."""

    messages: tuple[Mapping[str, Any], ...]


Sample = TextSample | PairSample | ChatSample


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the keys of a sample are called.

    Args:
        text: The key of a text.
        prompt: The key of a prompt.
        response: The key of its response.
        messages: The key of chat messages.

    Examples:
        >>> Columns(prompt="question", response="answer").read({"question": "2 + 2 =", "answer": " 4"})
        PairSample(prompt='2 + 2 =', response=' 4')
    """

    text: str = "text"
    prompt: str = "prompt"
    response: str = "response"
    messages: str = "messages"

    def __post_init__(self) -> None:
        names = [self.text, self.prompt, self.response, self.messages]
        if len(set(names)) < len(names) or not all(isinstance(name, str) and name for name in names):
            raise ConfigurationError(f"Expected four different column names, but got {names}.")

    @property
    def forms(self) -> tuple[frozenset[str], ...]:
        """The sets of keys that make a sample."""
        return frozenset({self.text}), frozenset({self.prompt, self.response}), frozenset({self.messages})

    def read(self, raw: Any) -> Sample:
        """Return what a mapping holds. A key whose value is None counts as absent.

        Raises:
            InputError: It has none of the three forms; the message lists them.
        """
        if not isinstance(raw, Mapping):
            raise InputError(
                f"Expected a sample to be a mapping, but got {type(raw).__name__} {raw!r:.80}. {self._help}"
            )
        present = {key: value for key, value in raw.items() if value is not None}
        self._check_keys(list(present))
        if self.messages in present:
            return ChatSample(self._messages(present[self.messages]))
        for key, value in present.items():
            if not isinstance(value, str):
                raise InputError(f"Expected {key!r} to be a text (str), but got {type(value).__name__} {value!r:.80}.")
        if self.text in present:
            return TextSample(present[self.text])
        return PairSample(present[self.prompt], present[self.response])

    def _check_keys(self, keys: list[str]) -> None:
        known = [self.text, self.prompt, self.response, self.messages]
        for key in keys:
            if key not in known:
                raise InputError(f"Unknown key {key!r} in a sample{did_you_mean(key, known)}. {self._help}")
        if frozenset(keys) not in self.forms:
            raise InputError(
                f"A sample with {' and '.join(map(repr, keys)) or 'no keys'} has no known form. {self._help}"
            )

    @property
    def _help(self) -> str:
        return (
            f"A sample has {self.text!r}, or {self.prompt!r} and {self.response!r}, or {self.messages!r}; rename or "
            "remove other columns, or name yours with columns=Columns(...)."
        )

    def _messages(self, value: Any) -> tuple[Mapping[str, Any], ...]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise InputError(
                f"Expected {self.messages!r} to be a sequence of messages, got {type(value).__name__} {value!r:.80}."
            )
        for number, message in enumerate(value):
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise InputError(
                    f"{self.messages}[{number}]: expected a mapping with 'role' and 'content', but got {message!r:.80}."
                )
            if not isinstance(message.get("content"), str | None):
                raise InputError(
                    f"{self.messages}[{number}]: expected 'content' to be a text (str), but got "
                    f"{type(message['content']).__name__}. Only texts can be aligned."
                )
        return tuple(value)
