"""The errors and warnings that the library raises, and the hint that a misspelt name gets.

Every error says what was expected, what came, and what to do. All of them are `ValueError`s too, so that
pydantic can attach the path of the offending field when one is raised while a spec is read.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from os import PathLike, fspath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class DSKDError(Exception):
    """Base class of every error that `dskd_components` raises itself."""


class InputError(DSKDError, ValueError):
    """A tensor, model or batch handed to the library does not fit; the message names it."""


class NonFiniteError(InputError):
    """A tensor, or the loss, holds NaN or infinity; the message names it."""


class ConfigurationError(DSKDError, ValueError):
    """A spec asks for something that the rest of the set-up cannot give; the message names the field."""


class CheckpointError(DSKDError, ValueError):
    """Saved projectors cannot be written, read, or used with these models; the message says what differs."""


class StoreError(DSKDError, ValueError):
    """A teacher store cannot be written, read, or used with these models or samples; the message says what differs."""


class UnknownComponentError(DSKDError, LookupError, ValueError):
    """No installed plugin registers a component of this kind under this name."""


class PluginError(DSKDError, ValueError):
    """A plugin broke the contract; the message names the plugin and its distribution."""


class PluginWarning(UserWarning):
    """A plugin was left out because it is broken; everything else keeps working."""


class DSKDWarning(UserWarning):
    """Something is legal but very likely not what was meant."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known names nearest to an unknown one, or nothing.

    Capitals and the characters between words make no difference.

    Examples:
        >>> did_you_mean("Temprature", ["temperature", "distance"])
        " (did you mean 'temperature'?)"
    """
    by_letters = {_letters(other): other for other in known}
    close = [by_letters[letters] for letters in get_close_matches(_letters(name), by_letters, n=3, cutoff=0.5)]
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def as_sentence(message: object) -> str:
    """Return an error's message as a sentence of another message, with one full stop, whether it has its own or not.

    Args:
        message: an error, or a text.

    Examples:
        >>> as_sentence(ValueError("no such name")), as_sentence("It is gone.")
        ('no such name.', 'It is gone.')
    """
    text = str(message).rstrip()
    return text if re.search(r"([!?]|\.\.\.)$", text) else f"{text.rstrip('.')}."


def class_and_message(error: BaseException) -> str:
    """Return the class of an error that another message names, and what it says, with one full stop.

    Args:
        error: it may say nothing, as a bare ``assert`` does.

    Examples:
        >>> class_and_message(KeyError("id")), class_and_message(AssertionError())
        ("KeyError: 'id'.", 'AssertionError.')
    """
    name = type(error).__name__
    return as_sentence(f"{name}: {error}" if str(error).strip() else name)


def is_table(given: object) -> bool:
    """Return whether something is a table, as pandas has them: one after the other it gives the names of its columns.

    Args:
        given: any object.
    """
    return hasattr(given, "to_dict") and hasattr(given, "columns")


def what_came(given: object) -> str:
    """Return what messages call an object that is of the wrong kind: its class, and a text or a path as it is.

    Args:
        given: any object.

    Examples:
        >>> what_came("gpt2"), what_came(str), what_came(None), what_came(3)
        ("str 'gpt2'", 'the class str', 'None', 'int')
    """
    if isinstance(given, type):
        return f"the class {given.__name__}"
    if isinstance(given, str | PathLike):
        return f"{type(given).__name__} {fspath(given)!r:.80}"
    return "None" if given is None else type(given).__name__


def _letters(name: object) -> str:
    return re.sub(r"[\W_]+", "", str(name)).casefold()
