"""The forms of a sample, and how they are told apart."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final, Literal

from dskd_components.collation.messages import Message, is_cut, read_messages, read_template_options
from dskd_components.collation.plain_values import items_of
from dskd_components.collation.token_samples import TOKEN_KEYS, TokenSample, read_tokens
from dskd_components.errors import ConfigurationError, InputError, did_you_mean


@dataclass(frozen=True)
class TextSample:
    """A text; every token of it is scored.

    Attributes:
        text: The text.
        is_cut: Whether it breaks off, so that it has no end.
    """

    text: str
    is_cut: bool = False


@dataclass(frozen=True)
class PairSample:
    """A prompt and a response, tokenized as one text.

    Attributes:
        prompt: What stands before the response.
        response: What is learned.
        teacher_prompt: What stands before the response for the teacher; None: the same.
        is_cut: Whether the response breaks off, so that it has no end.
    """

    prompt: str
    response: str
    teacher_prompt: str | None = None
    is_cut: bool = False


@dataclass(frozen=True)
class ChatSample:
    """Chat messages, each a mapping with ``role`` and ``content``.

    Attributes:
        messages: All of them; one whose ``weight`` is 0 is not scored, and the ``finish_reason`` of an answer says
            whether it breaks off.
        prompt_length: How many of the first are a prompt, of which answers are not scored either.
        teacher_prompt: What the teacher reads in place of the prompt; None: the same.
        template_options: What the chat template is told beside the messages.
    """

    messages: tuple[Message, ...]
    prompt_length: int = 0
    teacher_prompt: tuple[Message, ...] | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)


Sample = TextSample | PairSample | ChatSample | TokenSample

FORMS: Final = frozenset({frozenset({"text"}), frozenset({"prompt", "response"}), frozenset({"messages"})})
EXTRAS: Final = ("teacher_prompt", "tools", "chat_template_kwargs", "finish_reason")
SYNONYMS: Final = {"completion": "response", "conversations": "messages"}
"""Names that data sets of TRL use, by the form's."""

_CUT = "An answer that was written up to a limit has 'finish_reason': 'length'."
_MEDIA = "Only texts can be aligned."
_PREFERENCE = "It belongs to a preference data set; name the response that is to be learned 'response'."
_TOKENS = "Tokens of both sides, ahead of training, are made by DualTokenizerPreprocessor, and are not to be changed."
HINTS: Final = {
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), _MEDIA),
    **dict.fromkeys(("chosen", "rejected", "label"), _PREFERENCE),
    **dict.fromkeys(("labels", "completion_mask", "assistant_masks", "attention_mask"), "It goes with 'input_ids'."),
    **{f"{side}_{name}": _TOKENS for side in ("student", "teacher") for name in ("input_ids", "labels", "groups")},
    **dict.fromkeys(("truncated", "is_truncated", "stop_reason", "done_reason"), _CUT),
    "privileged_context": "Write the prompt that the teacher is to read, with the context in it, to 'teacher_prompt'.",
}
"""What to do about keys that other libraries know; they are not ignored unless they are named."""
OTHER_NAMES: Final = {
    **dict.fromkeys(("question", "instruction", "query", "input"), "prompt"),
    **dict.fromkeys(("answer", "output", "solution", "target"), "response"),
    **dict.fromkeys(("conversation", "dialog", "dialogue", "chat"), "messages"),
}
"""What keys mean in many data sets, which is asked, not presumed."""
NAMED: Final = ("text", "prompt", "response", "messages", *EXTRAS)
"""What `Columns` has names for."""
NEARLY: Final = 0.8
"""How alike two keys are of which one may be a slip of the keyboard."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the keys of a sample are called.

    ``completion`` is another name for the response, and ``conversations`` for messages, unless you give these names to
    other columns.

    Args:
        text: The key of a text.
        prompt: The key of a prompt: a text or messages.
        response: The key of its response: a text or messages, as the prompt is.
        messages: The key of chat messages.
        teacher_prompt: The key of a prompt that the teacher alone reads, in place of the other.
        tools: The key of the tools that a chat's template is told of.
        chat_template_kwargs: The key of further options for a chat's template.
        ignore: Keys that are not read, as if samples did not have them; or ``"unknown"``: all that are not known, but
            for those that are nearly called like a known one that is missing, or mean something to other libraries
            (images, a chosen and a rejected response).
        finish_reason: The key of why the text, the response or the last message stops: ``"length"`` if it was cut.

    Raises:
        ConfigurationError: Two keys are the same, or one is no text.

    Examples:
        >>> Columns(prompt="question", response="answer").read({"question": "2 + 2 =", "answer": " 4"})
        PairSample(prompt='2 + 2 =', response=' 4', teacher_prompt=None, is_cut=False)
        >>> Columns(ignore=["id", "source"]).read({"id": 3, "source": "web", "text": "2 + 2 = 4"})
        TextSample(text='2 + 2 = 4', is_cut=False)
    """

    text: str = "text"
    prompt: str = "prompt"
    response: str = "response"
    messages: str = "messages"
    teacher_prompt: str = "teacher_prompt"
    tools: str = "tools"
    chat_template_kwargs: str = "chat_template_kwargs"
    ignore: Collection[str] | Literal["unknown"] = ()
    finish_reason: str = "finish_reason"
    _meanings: dict[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        own = {name: str(getattr(self, name)) for name in NAMED}
        names = [getattr(self, name) for name in own]
        if len(set(names)) < len(names) or not all(isinstance(name, str) and name for name in names):
            raise ConfigurationError(f"Expected different column names, but got {own}.")
        if self.ignore != "unknown":
            is_list = isinstance(self.ignore, Iterable) and not isinstance(self.ignore, str)
            ignored = list(self.ignore) if is_list else [None]
            if not all(isinstance(name, str) for name in ignored):
                raise ConfigurationError(
                    f"Expected ignore to be a list of keys or 'unknown', but got ignore={self.ignore!r}."
                )
            object.__setattr__(self, "ignore", tuple(sorted(set(ignored))))
        meanings = SYNONYMS | {name: meaning for meaning, name in own.items()}
        object.__setattr__(self, "_meanings", meanings)

    def meaning_of(self, key: str) -> str | None:
        """Return the name in `Columns` that a key of a sample stands for; None if it is not known."""
        return self._meanings.get(key)

    def kept(self, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a sample, or columns of several, without what is ignored.

        Args:
            raw: Its values by key.
        """
        if not self.ignore:
            return raw
        if self.ignore == "unknown":
            return {key: value for key, value in raw.items() if not self._is_ignored(key, raw)}
        return {key: value for key, value in raw.items() if key not in self.ignore}

    def _is_ignored(self, key: str, raw: Mapping[str, Any]) -> bool:
        known = list(TOKEN_KEYS) if self._is_in_tokens(raw) else list(self._meanings)
        if key in known or key in HINTS:
            return False
        return all(other in raw for other in get_close_matches(str(key), known, n=1, cutoff=NEARLY))

    def _is_in_tokens(self, raw: Mapping[str, Any]) -> bool:
        return raw.get("input_ids") is not None and self.meaning_of("input_ids") is None

    def read(self, raw: Any) -> Sample:
        """Return what a mapping holds. A key whose value is None counts as absent.

        Raises:
            InputError: It has none of the forms, or a value does not fit its key; the message says which.
        """
        if not isinstance(raw, Mapping):
            raise InputError(
                f"Expected a sample to be a mapping, but got {type(raw).__name__} {raw!r:.80}. {self._help}"
            )
        whole, raw = raw, self.kept(raw)
        if self._is_in_tokens(raw):
            return read_tokens(raw)
        keys = self._keys_of(raw)
        values = {meaning: raw[key] for meaning, key in keys.items()}
        form = values.keys() - set(EXTRAS)
        if form not in FORMS:
            given = " and ".join(repr(key) for meaning, key in keys.items() if meaning in form) or "no keys"
            left_out = [key for key, value in whole.items() if value is not None and key not in raw]
            given += f" ({', '.join(map(repr, left_out))} ignored)" if left_out else ""
            raise InputError(f"A sample with {given} has no known form{self._misfit(keys)}. {self._help}")
        if "teacher_prompt" in keys and "prompt" not in keys:
            raise InputError(
                f"{keys['teacher_prompt']!r} takes the place of a prompt, so it goes with {self.prompt!r} and "
                f"{self.response!r}, not with {' and '.join(repr(keys[meaning]) for meaning in form)}."
            )
        if "messages" in keys:
            messages = self._finished(read_messages(keys["messages"], values["messages"]), keys, values)
            return ChatSample(messages, template_options=self._template_options(keys, values))
        if "text" in keys:
            self._refuse_template_options(keys, values)
            return TextSample(_text(keys["text"], values["text"], "a text (str)"), self._is_cut(keys, values))
        return self._prompted(keys, values)

    def _prompted(self, keys: Mapping[str, str], values: Mapping[str, Any]) -> Sample:
        """A prompt and its response, as texts or as messages."""
        parts = [meaning for meaning in ("prompt", "teacher_prompt", "response") if meaning in keys]
        kinds = {meaning: isinstance(values[meaning], str) for meaning in parts}
        for meaning, is_text in kinds.items():
            items = items_of(values[meaning])
            if not is_text and (items is None or any(isinstance(item, str) for item in items)):
                self._refuse_kind(meaning, keys[meaning], values[meaning])
        if len(set(kinds.values())) > 1:
            names = " and ".join(repr(keys[meaning]) for meaning in parts)
            found = " and ".join("a text" if is_text else "messages" for is_text in kinds.values())
            raise InputError(
                f"Expected {names} to be of one kind, texts or messages, but got {found}. A message is "
                "{'role': ..., 'content': ...}, and messages are a list of them."
            )
        if kinds["prompt"]:
            self._refuse_template_options(keys, values)
            prompt, response = str(values["prompt"]), str(values["response"])
            own = str(values["teacher_prompt"]) if "teacher_prompt" in keys else prompt
            return PairSample(prompt, response, None if own == prompt else own, self._is_cut(keys, values))
        read = {meaning: read_messages(keys[meaning], values[meaning]) for meaning in parts}
        of_teacher = read.get("teacher_prompt", read["prompt"])
        return ChatSample(
            (*read["prompt"], *self._finished(read["response"], keys, values)),
            len(read["prompt"]),
            None if of_teacher == read["prompt"] else of_teacher,
            self._template_options(keys, values),
        )

    def _is_cut(self, keys: Mapping[str, str], values: Mapping[str, Any]) -> bool:
        return "finish_reason" in keys and is_cut(repr(keys["finish_reason"]), values["finish_reason"])

    def _finished(
        self, messages: tuple[Message, ...], keys: Mapping[str, str], values: Mapping[str, Any]
    ) -> tuple[Message, ...]:
        """The messages, the last of which stops as the sample says."""
        if "finish_reason" not in keys or not messages:
            return messages
        key, reason, last = keys["finish_reason"], values["finish_reason"], messages[-1]
        if last["role"] != "assistant":
            raise InputError(
                f"{key!r} says why the last message stops, but that is of the role {last['role']!r}, whose end is "
                "never scored. Remove it, or put it into the answer of the assistant that it is about."
            )
        own = last.get("finish_reason")
        if own is not None and is_cut("'finish_reason'", own) != self._is_cut(keys, values):
            raise InputError(
                f"{key!r} is {reason!r}, but the last message has 'finish_reason' {own!r}; leave one of them."
            )
        self._is_cut(keys, values)
        return (*messages[:-1], {**last, "finish_reason": reason})

    def _refuse_kind(self, meaning: str, key: str, value: Any) -> None:
        advice = ""
        if meaning == "teacher_prompt" and isinstance(value, Mapping):
            advice = " Prompts by teacher are for MultiTeacherCollator."
        elif isinstance(value, Mapping):
            advice = " One message is a list of one."
        elif items_of(value) is not None:
            advice = " Several texts, such as several responses to a prompt, are several samples."
        raise InputError(
            f"Expected {key!r} to be a text (str) or messages, but got {type(value).__name__} {value!r:.80}.{advice}"
        )

    def require_known(self, keys: Mapping[Any, Any]) -> None:
        """Refuse columns of several samples of which one has no meaning.

        Args:
            keys: The columns.

        Raises:
            InputError: There is one.
        """
        if any(key not in self._meanings for key, value in keys.items() if value is not None):
            raise InputError(self._unknown(keys))

    def _keys_of(self, raw: Mapping[Any, Any]) -> dict[str, str]:
        """The keys that have a value, by their meaning."""
        keys: dict[str, str] = {}
        for key, value in raw.items():
            if value is None:
                continue
            meaning = self._meanings.get(key)
            if meaning is None:
                raise InputError(self._unknown(raw))
            if meaning in keys:
                raise InputError(
                    f"A sample has {keys[meaning]!r} and {key!r}, which mean the same; leave one of them, or use "
                    f"columns=Columns(ignore=[{key!r}])."
                )
            keys[meaning] = key
        return keys

    def _template_options(self, keys: Mapping[str, str], values: Mapping[str, Any]) -> Mapping[str, Any]:
        if "tools" not in keys and "chat_template_kwargs" not in keys:
            return {}
        return read_template_options(
            self.tools, values.get("tools"), self.chat_template_kwargs, values.get("chat_template_kwargs")
        )

    def _refuse_template_options(self, keys: Mapping[str, str], values: Mapping[str, Any]) -> None:
        options = self._template_options(keys, values)
        if options:
            key = keys["tools" if "tools" in options else "chat_template_kwargs"]
            raise InputError(f"{key!r} is for chat templates, so it goes with chats, not with texts.")

    def _unknown(self, raw: Mapping[Any, Any]) -> str:
        """What is said of keys without a meaning: of the first what it may be, and of all how they are ignored."""
        unknown = [key for key, value in raw.items() if value is not None and key not in self._meanings]
        first = unknown[0]
        hint = f"{did_you_mean(first, list(self._meanings))}."
        if first in NAMED:
            hint = f". It is called {getattr(self, first)!r} here, by columns=Columns(...)."
        elif first in HINTS:
            hint = f". {HINTS[first]}"
        elif first in OTHER_NAMES:
            hint = f". If it is the {OTHER_NAMES[first]}, say so: columns=Columns({OTHER_NAMES[first]}={first!r})."
        others = f" Nor known: {', '.join(map(repr, unknown[1:]))}." if len(unknown) > 1 else ""
        ignoring = f"columns=Columns(ignore={list(map(str, unknown))!r})"
        return (
            f"Unknown key {first!r} in a sample{hint}{others} {self._forms} To leave out what is no part: {ignoring}."
        )

    def _misfit(self, keys: Mapping[str, str]) -> str:
        """What a sample has too little or too much of, if that is plain."""
        form = keys.keys() - set(EXTRAS)
        if form == {"prompt"}:
            return f": {keys['prompt']!r} lacks its {self.response!r} (or 'completion')"
        if form == {"response"}:
            return f": {keys['response']!r} lacks its {self.prompt!r}, which may be empty"
        if len(form & {"text", "messages"}) and len(form) > 1:
            return ": they are of different ones, and columns=Columns(ignore=[...]) leaves out what is not to be read"
        return ""

    @property
    def _forms(self) -> str:
        return f"A sample has {self.text!r}, or {self.prompt!r} and {self.response!r}, or {self.messages!r}."

    @property
    def _help(self) -> str:
        return f"{self._forms} Name columns of your own with columns=Columns(...)."


def _text(key: str, value: Any, expected: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"Expected {key!r} to be {expected}, but got {type(value).__name__} {value!r:.80}.")
    return str(value)
