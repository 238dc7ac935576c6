"""What makes two tokenizers the same: a digest of everything that decides how they cut a text."""

import hashlib
from typing import Any

from dskd_components.tokenization.fast_tokenizers import backend_of


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
    return int(tokenizer_fingerprint(tokenizer)[:16], 16) >> 1
