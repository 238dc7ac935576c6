"""Options that are checked when a collator is built, not when it is first used."""

from typing import Any, Literal, get_args

from dskd_components.components.aligner import Aligner, TextMethod
from dskd_components.components.lookup import get_aligner
from dskd_components.errors import ConfigurationError

OnError = Literal["raise", "skip"]
PaddingSide = Literal["right", "left"]


def text_method(aligner: str | Aligner | None) -> TextMethod | None:
    """How the tokens of a text must be brought together for an aligner.

    Raises:
        UnknownComponentError: No installed plugin has an aligner of this name.
        ConfigurationError: It is no aligner.
    """
    if isinstance(aligner, str):
        aligner = get_aligner(aligner)
    if aligner is not None and not isinstance(aligner, Aligner):
        raise ConfigurationError(f"Expected aligner to be a name, an Aligner or None, but got aligner={aligner!r}.")
    return None if aligner is None else aligner.text_method


def positive_or_none(name: str, value: Any) -> int | None:
    """Return a number of tokens, or None.

    Raises:
        ConfigurationError: It is neither.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ConfigurationError(f"Expected {name} to be a positive integer or None, but got {name}={value!r}.")
    return value


def one_of(name: str, value: Any, choices: Any) -> None:
    """Refuse a value that is none of a literal type's.

    Raises:
        ConfigurationError: It is not.
    """
    if value not in get_args(choices):
        raise ConfigurationError(f"Expected {name} to be one of {get_args(choices)}, but got {name}={value!r}.")
