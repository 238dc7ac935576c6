"""What a tokenizer was when it was read, to tell cheaply whether it has changed since.

Tokenizers say nothing when they change, and to compare all of one takes longer than to encode a batch. So what is small
is compared whole: the parts around the model, the model's options, a few added tokens. Of the vocabulary, tokens that
texts gave are compared one by one, and a few more. So it may go unnoticed that merges or scores change alone, or tokens
that no text has: no span is wrong then, but a fingerprint is old.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dskd_components.tokenization.fast_tokenizers import backend_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dskd_components.tokenization.arrays import IntArray

PARTS: Final = ("pre_tokenizer", "post_processor", "decoder")
MODEL_OPTIONS: Final = (
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "fuse_unk",
    "ignore_merges",
    "dropout",
    "max_input_chars_per_word",
)
PROBES: Final = 8
"""How many tokens of the vocabulary are compared whether or not a text has them."""
FEW_ADDED: Final = 64
"""Up to how many added tokens are compared whether or not a text has them, whole."""
REWRITTEN: Final = "½ ﬁ ① ㎞ e\u0301 é ｶﾞ 가 İ … ™ \uff21 \u00a0 \u3000 \u200b \t \r\n  x"
"""Letters that normalisers rewrite, to tell tables of half a megabyte apart by what they do."""


class TokenizerSnapshot:
    """What a tokenizer was when it was read.

    Args:
        tokenizer: A fast ``transformers`` tokenizer or a ``tokenizers.Tokenizer``.
        size: The largest id in use, plus one.

    Raises:
        InputError: The tokenizer is not a fast one.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        backend = backend_of(tokenizer)
        # A bare tokenizer is not held: whoever remembers the snapshot does so as long as the tokenizer lives.
        self._backend = None if backend is tokenizer else backend
        # Hashes, as strings of a whole vocabulary would take several MiB.
        self._hashes = np.fromiter(_hashes(backend, range(size)), dtype=np.int64, count=size)
        added: dict[int, Any] = backend.get_added_tokens_decoder()
        self._has_few = len(added) <= FEW_ADDED
        self._skipped = {} if self._has_few else {number: _is_skipped(backend, number) for number in added}
        ends = (size, backend.get_vocab_size(with_added_tokens=False), max(added, default=-1) + 1)
        self._probes = (*range(0, size, max(size // PROBES, 1)), *ends)
        self._description = self._describe(tokenizer, backend)

    def holds(self, tokenizer: Any, ids: IntArray | None = None) -> bool:
        """Whether the tokenizer is still as it was.

        Args:
            tokenizer: The tokenizer.
            ids: The distinct ids that texts gave ``[N]``; None: all ids are compared.
        """
        backend = backend_of(tokenizer)
        if self._backend is not None and backend is not self._backend:
            return False
        return self._describe(tokenizer, backend) == self._description and self._knows(backend, ids)

    def _knows(self, backend: Any, ids: IntArray | None) -> bool:
        """Whether ids stand for the tokens that they stood for."""
        if ids is None:
            ids = np.arange(len(self._hashes))
        elif len(ids) and int(ids.max()) >= len(self._hashes):
            return False
        numbers = ids.tolist()
        if self._hashes[ids].tolist() != list(_hashes(backend, numbers)):
            return False
        added = [number for number in numbers if number in self._skipped] if self._skipped else ()
        return all(_is_skipped(backend, number) == self._skipped[number] for number in added)

    def _describe(self, tokenizer: Any, backend: Any) -> tuple[object, ...]:
        """All that is small."""
        model = backend.model
        added = backend.get_added_tokens_decoder() if self._has_few else {}
        return (
            type(model).__name__,
            [getattr(model, name, None) for name in MODEL_OPTIONS],
            _normalizer(backend.normalizer),
            [None if part is None else part.__getstate__() for part in (getattr(backend, name) for name in PARTS)],
            {number: (token.content, token.special) for number, token in added.items()},
            getattr(tokenizer, "all_special_tokens", None),
            backend.get_vocab_size(with_added_tokens=False),
            list(_hashes(backend, self._probes)),
        )


def _hashes(backend: Any, ids: Iterable[int]) -> Iterable[int]:
    return map(hash, map(backend.id_to_token, ids))


def _is_skipped(backend: Any, number: int) -> bool:
    """Whether decoding leaves a token out, as it does those that are special."""
    return not backend.decode([number], skip_special_tokens=True)


def _normalizer(normalizer: Any) -> object:
    """What a normaliser is; a precompiled one by what it does, as writing its table takes longer than encoding."""
    name = type(normalizer).__name__
    if normalizer is None:
        return None
    if name == "Sequence":
        return [_normalizer(normalizer[index]) for index in range(len(normalizer))]
    if name == "Precompiled":
        return name, normalizer.normalize_str(REWRITTEN)
    return normalizer.__getstate__()
