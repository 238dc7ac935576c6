"""Samples that are in tokens already, as the aligned parts of a text."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dskd_components.collation.content_places import Place
from dskd_components.collation.documents import Content
from dskd_components.collation.problems import SampleError, SkipReason
from dskd_components.collation.side_tokens import SideTokens
from dskd_components.collation.token_samples import TokenSample
from dskd_components.errors import InputError
from dskd_components.tokenization.arrays import IntArray
from dskd_components.tokenization.byte_spans import TokenizedText
from dskd_components.tokenization.fast_tokenizers import backend_of
from dskd_components.tokenization.token_bytes import VocabularyBytes, vocabulary_bytes_as_read


def side_tokens_of(sample: TokenSample, tokenizer: Any, *, train_on_prompt: bool) -> SideTokens:
    """Return the tokens as each of both sides has them: a stretch of scored tokens is a content.

    Args:
        sample: The tokens.
        tokenizer: Whose they are.
        train_on_prompt: Whether what only masks set apart is scored, too.

    Raises:
        InputError: The tokenizer has no such token.
        SampleError: None of them is scored.
    """
    vocabulary, ids = vocabulary_bytes_as_read(tokenizer), sample.input_ids
    strange = ids[(ids < 0) | (ids >= len(vocabulary.pieces))]
    if len(strange):
        raise InputError(
            f"'input_ids' has {strange[0]}, but the tokenizer has the ids 0 to {len(vocabulary.pieces) - 1}. Give the "
            "tokens that these tokenizers made."
        )
    scored = np.ones_like(sample.scored) if train_on_prompt and not sample.has_labels else sample.scored
    if not scored.any():
        names = " and ".join(map(repr, sample.said_by))
        problem = f"{names} {'leave' if len(sample.said_by) > 1 else 'leaves'} no token that is scored"
        if sample.has_labels:
            problem = "'labels' are all -100"
        raise SampleError(SkipReason.NOTHING_SCORED, f"Its {problem}; there is nothing to learn.")
    # A text in which each token is one byte: what is cut and paired are tokens, whatever they spell.
    positions = np.arange(len(ids))
    text = TokenizedText("x" * len(ids), ids, positions, positions + 1, positions, 0, 0, _Strings(tokenizer, ids))
    borders = np.flatnonzero(np.diff(np.concatenate([[False], scored, [False]]).astype(np.int8)))
    runs = borders.reshape(-1, 2).tolist()
    contents = [Content("x" * (stop - start), 0, ends_turn=False) for start, stop in runs]
    places = [Place(start, 0, stop - start) for start, stop in runs]
    none = np.zeros(0, dtype=np.int64)
    stretches = [None] * len(runs), [-1] * len(runs)
    spans = _byte_spans(vocabulary, ids)
    return SideTokens(text, none, none, contents, places, *stretches, vocabulary, None, own_spans=spans)


def _byte_spans(vocabulary: VocabularyBytes, ids: IntArray) -> tuple[IntArray, IntArray]:
    """Where tokens start and end in the bytes that they spell together; -1 for special ones, which spell none."""
    special = vocabulary.special[ids]
    lengths = np.where(special, 0, vocabulary.lengths[ids])
    ends = np.cumsum(lengths)
    return np.where(special, -1, ends - lengths), np.where(special, -1, ends)


@dataclass(frozen=True)
class _Strings:
    """The token strings, made when asked for."""

    tokenizer: Any
    ids: IntArray

    @property
    def tokens(self) -> list[str]:
        backend = backend_of(self.tokenizer)
        return [backend.id_to_token(number) or "" for number in self.ids.tolist()]
