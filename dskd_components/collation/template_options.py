"""What a chat template is told beside the messages: tools, and options of its own."""

import json
from collections.abc import Mapping
from typing import Any, Final

from dskd_components.collation.plain_values import items_of, plain
from dskd_components.errors import InputError

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
            raise InputError(f"{name!r} is a text, but not of JSON: {error}. It is {given!r:.80}.") from error
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
