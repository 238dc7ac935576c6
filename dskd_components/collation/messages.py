"""Chat messages as data sets hold them, and as chat templates are to get them."""

from collections.abc import Mapping
from typing import Any

from dskd_components.collation.plain_values import items_of, plain
from dskd_components.errors import InputError

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
