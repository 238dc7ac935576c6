"""`Vocabulary`: the tokens of one model, and `ComparedTokens`: those that a space's columns stand for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dskd_components.errors import InputError
from dskd_components.tokenization.token_bytes import vocabulary_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from dskd_components.models.states import Side


@dataclass(frozen=True, eq=False, kw_only=True)
class Vocabulary:
    """The tokens of one model, as far as they are known.

    Args:
        size: how many tokens the head has.
        tokenizer: the model's tokenizer, or None where a loss was built without.
        known_bytes: what each token stands for, if that is known without a tokenizer.

    Examples:
        >>> from tokenizers import Tokenizer, models
        >>> tokenizer = Tokenizer(models.WordLevel({"a": 0, "bc": 1}, unk_token="a"))
        >>> Vocabulary(size=3, tokenizer=tokenizer).token_bytes
        (b'a', b'bc', b'')
    """

    size: int
    tokenizer: Any = None
    known_bytes: Sequence[bytes] | None = None

    @cached_property
    def token_bytes(self) -> tuple[bytes, ...] | None:
        """The text that each token stands for, as UTF-8 bytes; empty for ids that are no token.

        None where it cannot be known: without a tokenizer, or with a slow one.
        """
        pieces = self.known_bytes
        if pieces is None:
            try:
                pieces = None if self.tokenizer is None else vocabulary_bytes(self.tokenizer).pieces
            except InputError:
                pieces = None
        if pieces is None:
            return None
        return (*pieces[: self.size], *[b""] * (self.size - len(pieces)))


@dataclass(frozen=True, eq=False, kw_only=True)
class ComparedTokens:
    """The tokens that distributions are over where a space measures them, one a column.

    Args:
        side: whose vocabulary the ids are of.
        ids: ``[V]``, int64: the token of each column.
        vocabulary: that side's.

    Examples:
        >>> import torch
        >>> vocabulary = Vocabulary(size=3, known_bytes=[b"a", b"bc", b" d"])
        >>> tokens = ComparedTokens(side="student", ids=torch.tensor([2, 0]), vocabulary=vocabulary)
        >>> len(tokens), tokens.token_bytes
        (2, (b' d', b'a'))
    """

    side: Side
    ids: Tensor
    vocabulary: Vocabulary

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def token_bytes(self) -> tuple[bytes, ...] | None:
        """The text that each column stands for, as UTF-8 bytes; None where it is not known."""
        pieces = self.vocabulary.token_bytes
        return None if pieces is None else tuple(pieces[number] for number in self.ids.tolist())
