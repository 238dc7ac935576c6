"""Fast tokenizers by their behaviour: those of ``transformers`` and bare ``tokenizers.Tokenizer`` objects."""

from collections.abc import Sequence
from typing import Any

from dskd_components.errors import InputError


def backend_of(tokenizer: Any) -> Any:
    """The ``tokenizers.Tokenizer`` that does a tokenizer's work.

    Args:
        tokenizer: A fast ``transformers`` tokenizer or a ``tokenizers.Tokenizer``.

    Raises:
        InputError: It is neither: a slow tokenizer does not say which part of the text a token came from.
    """
    if hasattr(tokenizer, "encode_batch") and hasattr(tokenizer, "to_str"):
        return tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not getattr(tokenizer, "is_fast", True):
        raise InputError(
            "Expected a fast tokenizer, which reports what part of the text each token came from, but got "
            f"{type(tokenizer).__name__}. Load it with AutoTokenizer.from_pretrained(...), or wrap a "
            "tokenizers.Tokenizer as PreTrainedTokenizerFast(tokenizer_object=...)."
        )
    return backend


def encode_batch(tokenizer: Any, texts: Sequence[str], *, add_special_tokens: bool) -> list[Any]:
    """Encode texts without padding or truncation into ``tokenizers.Encoding`` objects.

    Raises:
        InputError: The tokenizer is a slow one, a bare one set to pad or truncate, or a text is not valid
            Unicode.
    """
    backend = backend_of(tokenizer)
    for text in texts:
        _check_text(text)
    if backend is tokenizer:
        if backend.padding is not None or backend.truncation is not None:
            raise InputError(
                "Expected a tokenizers.Tokenizer that keeps texts whole, but this one pads or truncates. "
                "Call its no_padding() and no_truncation() first."
            )
        return list(backend.encode_batch(list(texts), add_special_tokens=add_special_tokens))
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        add_special_tokens=add_special_tokens,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
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
