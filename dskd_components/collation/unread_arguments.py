"""What a sample tells a chat template, and the template leaves out: found for each chat, and said once.

Jinja ignores variables that a template does not read. So tools or documents are gone without a word, from one side or
from both, and two models read different prompts.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from dskd_components.errors import DSKDWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from dskd_components.collation.problems import SampleNames
    from dskd_components.collation.samples import Columns

WRITTEN: Final = ("tools", "documents")
"""Arguments that ``transformers`` names, which templates write down for the model to read."""

ITSELF: Final = "chat_template"
"""The option that is the template, not what it is told."""


def is_content(value: Any) -> bool:
    """Return whether an argument is something to be written, such as tools, rather than a setting.

    Args:
        value: The argument's.
    """
    return isinstance(value, Mapping | list | tuple)


def told_arguments(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of what a template is told: without what is empty, and without a template of the sample's own.

    Args:
        options: What ``apply_chat_template`` gets beside the messages.
    """
    return tuple(
        name
        for name, value in options.items()
        if name != ITSELF and (value or not (value is None or isinstance(value, str) or is_content(value)))
    )


def unread_arguments(
    options: Mapping[str, Any], source: str, render: Callable[[Mapping[str, Any]], str | None]
) -> tuple[str, ...]:
    """Return what a template is told of one chat and does not read.

    Tools, documents and other lists and mappings are read where the chat is rendered otherwise without them. A setting
    may be the template's default, or be read for what is to be generated, which makes no difference here; so it is read
    where the template has its name, too.

    Args:
        options: What the template is told beside the messages.
        source: The template.
        render: Renders the chat with these options or others; None if it is refused.

    Examples:
        >>> def render(options):
        ...     return f"{options.get('tools')} Hello!"
        >>> told = {"tools": ["look_up"], "documents": ["A page."], "brief": True}
        >>> unread_arguments(told, "{{ tools }} Hello!", render)
        ('documents', 'brief')
    """
    unread = []
    for name in told_arguments(options):
        value = options[name]
        if not is_content(value) and re.search(rf"\b{re.escape(name)}\b", source):
            continue
        without = {other: given for other, given in options.items() if other != name}
        if render(options) == render(without):
            unread.append(name)
    return tuple(unread)


class UnreadNotices:
    """Says once, of each argument, whose template does not read it.

    Args:
        columns: What the keys of a sample are called.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._told: set[tuple[str, str]] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what has been said: copies are equal whatever they have read, and speak for themselves."""
        return self.__dict__ | {"_told": set()}

    def tell(self, names: SampleNames, index: int, unread: Mapping[str, Collection[str]]) -> None:
        """Warn of arguments of a sample, unless it has been said.

        Args:
            names: What the samples are called.
            index: Which of them it is.
            unread: By model, in words, what its template does not read.
        """
        for name in dict.fromkeys(name for found in unread.values() for name in found):
            leave_out = [model for model, found in unread.items() if name in found]
            new = {(model, name) for model in leave_out} - self._told
            if new:
                self._told |= new
                key = argument_key(name, self._columns)
                readers = [model for model in unread if model not in leave_out]
                advice = unread_advice(name, self._columns, readers)
                problem = f"{unread_text(key, leave_out, readers)}. Do: {advice}. This is said once."
                warnings.warn(names.message(index, problem), DSKDWarning, stacklevel=2)


def argument_key(name: str, columns: Columns) -> str:
    """Return where in a sample an argument of the template stands.

    Args:
        name: What the template calls it.
        columns: What the keys of a sample are called.
    """
    return repr(columns.tools) if name == "tools" else f"{columns.chat_template_kwargs}[{name!r}]"


def unread_text(key: str, leave_out: Sequence[str], readers: Sequence[str]) -> str:
    """Return in words that an argument is not read, and by whom it is.

    Args:
        key: Where it stands in a sample.
        leave_out: Whose templates do not read it.
        readers: Whose do.
    """
    found = f"{key} makes no difference to what the chat template of {' and of '.join(leave_out)} writes"
    if not readers:
        return found
    return f"{found}; that of {' and of '.join(readers)} reads it, so the models read different prompts"


def unread_advice(name: str, columns: Columns, readers: Sequence[str]) -> str:
    """Return what to do about an argument that is not read.

    Args:
        name: What the template calls it.
        columns: What the keys of a sample are called.
        readers: Whose templates read it.
    """
    if name not in WRITTEN:
        alone = f"; if it is meant for the template of {' and of '.join(readers)} alone, nothing is to be done"
        return f"check its name, set a chat_template that reads it, or remove it{alone if readers else ''}"
    remove = "remove them"
    if name == "tools":
        remove = f"leave them out for all: columns=Columns(ignore=[{argument_key(name, columns)}])"
    return f"set a chat_template that reads {name!r} on each tokenizer, write them into the messages, or {remove}"
