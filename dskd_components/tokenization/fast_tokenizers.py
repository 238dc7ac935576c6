"""Fast tokenizers: what stands behind them, and the digest that tells two of them apart."""

from __future__ import annotations

import hashlib
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from dskd_components.errors import InputError, class_and_message, what_came

if TYPE_CHECKING:
    from collections.abc import Sequence


class TokenizerError(InputError):
    """A tokenizer failed on a text; the message has its own words."""


def backend_of(tokenizer: Any) -> Any:
    """The ``tokenizers.Tokenizer`` that does a tokenizer's work.

    Args:
        tokenizer: A fast ``transformers`` tokenizer or a ``tokenizers.Tokenizer``.

    Raises:
        InputError: It is neither: a slow tokenizer does not say which part of the text a token came from.
    """
    is_class = isinstance(tokenizer, type)
    if not is_class and hasattr(tokenizer, "encode_batch") and hasattr(tokenizer, "to_str"):
        return tokenizer
    backend = None if is_class else getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not getattr(tokenizer, "is_fast", True):
        raise InputError(
            "Expected a fast tokenizer, which reports what part of the text each token came from, but got "
            f"{what_came(tokenizer)}. {_how_to_load(tokenizer)}, or wrap a tokenizers.Tokenizer as "
            "PreTrainedTokenizerFast(tokenizer_object=...)."
        )
    return backend


def require_fast_tokenizer(tokenizer: Any, name: str) -> None:
    """Refuse what is no fast tokenizer, by the name of the argument.

    Args:
        tokenizer: What somebody gave as one.
        name: Of the argument, for the message.

    Raises:
        InputError: It is none.
    """
    try:
        backend_of(tokenizer)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def require_tokenizer(tokenizer: Any, name: str) -> None:
    """Refuse what is no tokenizer at all; slow ones are taken.

    Args:
        tokenizer: What somebody gave as one.
        name: Of the argument, for the message.

    Raises:
        InputError: It is none; the message says what to do.

    Examples:
        >>> try:
        ...     require_tokenizer("gpt2", "student_tokenizer")
        ... except InputError as error:
        ...     print(error)
        student_tokenizer: expected a tokenizer, got str 'gpt2'. Load it with AutoTokenizer.from_pretrained('gpt2').
    """
    if isinstance(tokenizer, type) or not callable(getattr(tokenizer, "get_vocab", None)):
        raise InputError(f"{name}: expected a tokenizer, got {what_came(tokenizer)}. {_how_to_load(tokenizer)}.")


def _how_to_load(given: object) -> str:
    """Return how to get a tokenizer where something else came."""
    if isinstance(given, type):
        return f"Load one with {given.__name__}.from_pretrained(...)"
    if isinstance(given, str | PathLike):
        return f"Load it with AutoTokenizer.from_pretrained({fspath(given)!r})"
    return "Load it with AutoTokenizer.from_pretrained(...)"


def encode_batch(tokenizer: Any, texts: Sequence[str], *, add_special_tokens: bool) -> list[Any]:
    """Encode texts without padding or truncation into ``tokenizers.Encoding`` objects.

    Raises:
        InputError: The tokenizer is a slow one, a bare one set to pad or truncate, or a text is not valid
            Unicode.
        TokenizerError: The tokenizer fails on a text.
    """
    backend = backend_of(tokenizer)
    for text in texts:
        _check_text(text)
    if backend is tokenizer and (backend.padding is not None or backend.truncation is not None):
        raise InputError(
            "Expected a tokenizers.Tokenizer that keeps texts whole, but this one pads or truncates. "
            "Call its no_padding() and no_truncation() first."
        )
    if not texts:
        return []
    try:
        if backend is tokenizer:
            return list(backend.encode_batch(list(texts), add_special_tokens=add_special_tokens))
        encoded = tokenizer(
            list(texts),
            add_special_tokens=add_special_tokens,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
    except BaseException as error:
        # Tokenizers raise errors of any type. A panic of Rust's is not even an Exception; an interrupt is not theirs.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        which = f"the text {texts[0]!r:.80}" if len(texts) == 1 else f"one of {len(texts)} texts"
        raise TokenizerError(f"{type(tokenizer).__name__} fails on {which}: {class_and_message(error)}") from error
    return list(encoded.encodings)


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"Expected a text (str), but got {type(text).__name__}: {text!r}.")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"Expected valid Unicode, but the text has the lone surrogate {text[error.start]!r} at index "
            f"{error.start}. Decode the source with errors='replace' or drop such characters."
        ) from error


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A SHA-256 over added tokens, normaliser, pre-tokeniser, post-processor, decoder, vocabulary and merges.

    It is the same in every process and for every copy of a tokenizer, whatever its padding and truncation are
    set to.

    Args:
        tokenizer: A fast ``transformers`` tokenizer or a ``tokenizers.Tokenizer``.

    Raises:
        InputError: The tokenizer is not a fast one.

    Examples:
        >>> from tokenizers import Tokenizer, models
        >>> one = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
        >>> other = Tokenizer(models.WordLevel({"a": 0, "b": 2}, unk_token="a"))
        >>> tokenizer_fingerprint(one) == tokenizer_fingerprint(other)
        False
    """
    description: str = backend_of(tokenizer).to_str()
    # Truncation and padding change from call to call; they come first, and the added tokens after them.
    lasting = description[description.index('"added_tokens"') :]
    return hashlib.sha256(lasting.encode()).hexdigest()


def fingerprint_number(tokenizer: Any) -> int:
    """The first 63 bits of the fingerprint, which fit into an int64 tensor.

    Args:
        tokenizer: A fast ``transformers`` tokenizer or a ``tokenizers.Tokenizer``.

    Raises:
        InputError: The tokenizer is not a fast one.
    """
    return fingerprint_number_of(tokenizer_fingerprint(tokenizer))


def fingerprint_number_of(fingerprint: str) -> int:
    """The first 63 bits of a `tokenizer_fingerprint`.

    Args:
        fingerprint: In hexadecimal.

    Examples:
        >>> fingerprint_number_of("00000000000000ff" + 48 * "0")
        127
    """
    return int(fingerprint[:16], 16) >> 1
