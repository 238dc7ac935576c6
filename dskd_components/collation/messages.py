"""Chat messages as data sets hold them, and what a chat template is told: parts of a content, tools, options."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from dskd_components.collation.plain_values import items_of, plain
from dskd_components.errors import InputError, as_sentence

Message = Mapping[str, Any]


def read_messages(name: str, value: Any) -> tuple[Message, ...]:
    """Return messages whose contents are texts.

    Text parts are joined, as the templates that read parts do. ``from`` and ``value`` become ``role`` and ``content``.
    Keys without a value, which Arrow fills in, are left out, as ``transformers`` does.

    Args:
        name: What to call them in errors.
        value: A list of messages, or an array of them.

    Raises:
        InputError: It is no list of messages, a content is no text, or a weight is neither 0 nor 1.
    """
    messages = items_of(value)
    if messages is None:
        raise InputError(f"Expected {name!r} to be a sequence of messages, got {type(value).__name__} {value!r:.80}.")
    return tuple(_message(f"{name}[{number}]", message) for number, message in enumerate(messages))


def _message(name: str, value: Any) -> Message:
    if isinstance(value, Mapping) and value.get("role") is None:
        value = _renamed(value)
    if not isinstance(value, Mapping) or not isinstance(value.get("role"), str):
        raise InputError(f"{name}: expected a mapping with 'role' and 'content', but got {value!r:.80}.")
    _check_weight(name, value)
    _check_finish_reason(name, value)
    if all(type(entry) is str for entry in value.values()):
        return value
    # None as content is not the same as no content to every template.
    message = {key: plain(entry) for key, entry in value.items() if entry is not None or key == "content"}
    if message.get("content") is not None:
        message["content"] = _text(name, message["content"])
    return message


def _check_weight(name: str, message: Message) -> None:
    """Refuse a weight that could not be followed: a message is scored or it is not."""
    weight = plain(message.get("weight"))
    if weight is None or (isinstance(weight, int | float) and weight in (0, 1)):
        return
    raise InputError(
        f"{name}: expected 'weight' to be 0 (not scored), 1 or absent (scored), but got {weight!r:.80}. Messages "
        "cannot count in part."
    )


ENDED: Final = ("stop", "eos_token", "stop_sequence", "tool_calls", "function_call")
CUT: Final = ("length", "content_filter", "abort")
"""Why a model stopped writing, as servers say it (OpenAI, vLLM, TGI): it wrote an end, or it did not come to that."""


def is_cut(name: str, reason: Any) -> bool:
    """Return whether an answer breaks off, so that nobody has written its end.

    Args:
        name: What to call the reason in errors.
        reason: Why it stops, in the words of servers; None: it ends as it should.

    Raises:
        InputError: It is none of their words.
    """
    if reason is None:
        return False
    if not isinstance(reason, str) or reason not in (*ENDED, *CUT):
        raise InputError(
            f"Expected {name} to be {CUT[0]!r} (cut at a limit, so that its end is not scored), {CUT[1]!r} or "
            f"{CUT[2]!r}, or else {', '.join(map(repr, ENDED))} or absent (it ends there), but got {reason!r:.80}."
        )
    return reason in CUT


def _check_finish_reason(name: str, message: Message) -> None:
    """Refuse a reason that is none, or that is for no answer of the assistant."""
    reason = message.get("finish_reason")
    if reason is None:
        return
    is_cut(f"{name}: 'finish_reason'", reason)
    if message["role"] != "assistant":
        raise InputError(
            f"{name}: 'finish_reason' {reason!r} is for answers of the assistant, but its role is {message['role']!r}, "
            "whose end is never scored. Remove it."
        )


def _renamed(message: Message) -> Message:
    """A message in the ShareGPT format with the usual keys; any other as it is."""
    if message.get("from") is None:
        return message
    others = {key: value for key, value in message.items() if key not in ("role", "from", "value")}
    return {"role": message["from"], "content": message.get("value")} | {
        key: value for key, value in others.items() if value is not None
    }


def _text(name: str, content: Any) -> str:
    """A content that is a text, or a list of text parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InputError(
            f"{name}: expected 'content' to be a text (str) or a list of text parts, but got "
            f"{type(content).__name__}. Only texts can be aligned."
        )
    return "".join(_text_of_part(f"{name}.content[{number}]", part) for number, part in enumerate(content))


def _text_of_part(name: str, part: Any) -> str:
    expected = "Only texts can be aligned: expected {'type': 'text', 'text': ...}"
    if not isinstance(part, Mapping):
        raise InputError(f"{name} is {type(part).__name__} {part!r:.80}. {expected}.")
    present = {key: value for key, value in part.items() if value is not None}
    if present.get("type") != "text":
        raise InputError(f"{name} is a part of the type {present.get('type')!r}. {expected}.")
    if not isinstance(present.get("text"), str):
        raise InputError(f"{name}: 'text' is {type(part.get('text')).__name__} {part.get('text')!r:.80}. {expected}.")
    others = [key for key in present if key not in ("type", "text")]
    if others:
        raise InputError(f"{name} has {', '.join(map(repr, others))} beside its text. {expected}.")
    return str(present["text"])


PROBES: Final = ("xFirstProbex", "xSecondProbex")


def as_parts(content: str | None) -> list[dict[str, str]]:
    """Return a content as a list of one text part, or of none if there is no text."""
    return [{"type": "text", "text": content}] if content else []


def reads_parts_alone(apply: Callable[[list[dict[str, Any]]], str]) -> bool:
    """Return whether a template drops contents that are texts, and writes those of parts.

    Args:
        apply: Renders messages with the template.
    """
    texts, parts = _rendered(apply, PROBES), _rendered(apply, [as_parts(probe) for probe in PROBES])
    if any(probe in texts for probe in PROBES) or not all(probe in parts for probe in PROBES):
        return False
    # A template that knows of no parts writes a list as Python or JSON does.
    return "'text'" not in parts and '"text"' not in parts


def _rendered(apply: Callable[[list[dict[str, Any]]], str], contents: Sequence[Any]) -> str:
    try:
        return apply([{"role": "user", "content": contents[0]}, {"role": "assistant", "content": contents[1]}])
    except Exception:
        # Whatever a template raises; what it refuses it does not read.
        return ""


NOT_OF_TEMPLATES: Final = frozenset(
    {"conversation", "messages", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict"}
    | {"return_assistant_tokens_mask", "tokenizer_kwargs", "sanitize_control_tokens"}
    | {"add_generation_prompt", "continue_final_message"}
)
"""Arguments of ``apply_chat_template`` that say how to tokenize or to generate: a sample does not."""


def read_template_options(tools_name: str, tools: Any, options_name: str, options: Any) -> dict[str, Any]:
    """Return what ``apply_chat_template`` gets beside the messages.

    Args:
        tools_name: What to call the tools in errors.
        tools: A list of JSON schemas or functions, or a JSON text of schemas, as in TRL; None or empty for none.
        options_name: What to call the options in errors.
        options: Names and values; those that are None are left out.

    Raises:
        InputError: They are none.
    """
    read: dict[str, Any] = {}
    if options is not None:
        read = _options(options_name, tools_name, options)
    if tools is not None:
        read_tools = _tools(tools_name, tools)
        # Some templates write about tools even if there are none in the list.
        read |= {"tools": read_tools} if read_tools else {}
    return read


def _options(name: str, tools_name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"Expected {name!r} to be a mapping, but got {type(value).__name__} {value!r:.80}.")
    options = {key: plain(entry) for key, entry in value.items() if entry is not None}
    for key in options:
        if key == "tools":
            raise InputError(f"{name} has 'tools'; give them as the sample's {tools_name!r}.")
        if not isinstance(key, str) or key in NOT_OF_TEMPLATES:
            raise InputError(f"{name} has {key!r}, which is no option of a chat template for training; remove it.")
    return options


def _tools(name: str, value: Any) -> list[Any]:
    given = value
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{name!r} is a text, but not of JSON: {as_sentence(error)} It is {given!r:.80}."
            ) from error
    tools = items_of(value)
    if tools is None:
        raise InputError(
            f"Expected {name!r} to be a list of JSON schemas or functions, but got {type(value).__name__} "
            f"{value!r:.80}."
        )
    for number, tool in enumerate(tools):
        if not isinstance(tool, Mapping) and not callable(tool):
            raise InputError(
                f"{name}[{number}]: expected a JSON schema (a mapping) or a function, but got "
                f"{type(tool).__name__} {tool!r:.80}."
            )
    return [plain(tool) for tool in tools]
