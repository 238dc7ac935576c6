"""One side's tokenizer: what it puts around a text, and documents in its tokens."""

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from dskd_components.collation.chat_templates import Place, Rendered
from dskd_components.collation.documents import RenderedSample
from dskd_components.collation.problems import SampleError, SkipReason
from dskd_components.collation.side_tokens import SideTokens
from dskd_components.tokenization.arrays import IntArray
from dskd_components.tokenization.byte_spans import TokenizedText, tokenize_batch_with_spans, tokenize_with_spans
from dskd_components.tokenization.fast_tokenizers import backend_of, fingerprint_number
from dskd_components.tokenization.token_bytes import VocabularyBytes, vocabulary_bytes

NONE = np.zeros(0, dtype=np.int64)


class SideEncoder:
    """Turns one side of documents into tokens.

    Args:
        tokenizer: A fast ``transformers`` tokenizer or a ``tokenizers.Tokenizer``.
        side: Whose it is.
        append_eos: Whether texts and responses end with the tokenizer's EOS, if it has one.

    Raises:
        InputError: The tokenizer is not a fast one.
    """

    def __init__(self, tokenizer: Any, side: Literal["student", "teacher"], *, append_eos: bool) -> None:
        self.tokenizer = tokenizer
        self.side = side
        template = tokenize_with_spans(tokenizer, "a", add_special_tokens=True)
        self.eos_id = _special_id(tokenizer, "eos_token_id")
        self.before = template.token_ids[: template.bos_count]
        self.after = template.token_ids[len(template) - template.eos_count :]
        if append_eos and self.eos_id is not None and self.eos_id not in self.after:
            self.after = np.append(self.after, self.eos_id)
        ends = np.flatnonzero(self.after == self.eos_id)
        self._eos_place = int(ends[-1]) if len(ends) else None
        self.unknown_id = _unknown_id(tokenizer)
        self.fingerprint = fingerprint_number(tokenizer)

    @property
    def pad_id(self) -> int:
        """What padding is filled with: the padding token, else EOS, else 0."""
        pad_id = _special_id(self.tokenizer, "pad_token_id")
        return next((number for number in (pad_id, self.eos_id) if number is not None), 0)

    def encode(self, documents: Sequence[RenderedSample]) -> list[SideTokens]:
        """Return one side of documents in tokens, whole. Errors of single samples are left to `check`."""
        sides: list[Rendered] = [getattr(document, self.side) for document in documents]
        vocabulary = vocabulary_bytes(self.tokenizer)
        texts = tokenize_batch_with_spans(self.tokenizer, [side.text for side in sides])
        return [
            self._side_tokens(document, side.places, text, vocabulary)
            for document, side, text in zip(documents, sides, texts, strict=True)
        ]

    def _side_tokens(
        self, document: RenderedSample, places: Sequence[Place], text: TokenizedText, vocabulary: VocabularyBytes
    ) -> SideTokens:
        contents = document.contents
        if document.is_chat:
            # The template of a chat brings its own special tokens, BOS among them.
            closings = [
                self._end_of_turn(text, place, vocabulary) if content.ends_turn else -1
                for content, place in zip(contents, places, strict=True)
            ]
            return SideTokens(text, NONE, NONE, contents, places, closings, vocabulary)
        before, after = self._around(text)
        closing = -1 if self._eos_place is None or len(after) == 0 else len(text) + self._eos_place
        return SideTokens(text, before, after, contents, places, [closing], vocabulary)

    def _around(self, text: TokenizedText) -> tuple[IntArray, IntArray]:
        """What goes around a text, without a second BOS or EOS if the text spells out its own."""
        ids, before, after = text.token_ids, self.before, self.after
        if len(before) and len(ids) and ids[0] == before[0] and np.array_equal(ids[: len(before)], before):
            before = NONE
        if self.eos_id is not None and len(ids) and ids[-1] == self.eos_id:
            after = NONE
        return before, after

    def _end_of_turn(self, text: TokenizedText, place: Place, vocabulary: VocabularyBytes) -> int:
        """The special token right after a content, spaces set aside; -1 for none."""
        if place.first == place.last:
            return -1
        # The first token that ends after the content; before it there may be tokens of nothing but spaces.
        for token in range(int(np.searchsorted(text.ends, place.stop, side="right")), len(text)):
            start, end = max(int(text.starts[token]), place.stop), int(text.ends[token])
            number = int(text.token_ids[token])
            if number == self.eos_id or (vocabulary.special[number] and number != self.unknown_id):
                swallowed = text.data[int(text.starts[token]) : start]
                return token if not swallowed.strip(b" ") else -1
            if text.data[start:end].strip(b" "):
                return -1
        return -1

    def _knows_nothing_of(self, ids: IntArray, vocabulary: VocabularyBytes) -> bool:
        """Whether all of a text but its spaces is unknown."""
        if self.unknown_id is None or not (ids == self.unknown_id).any():
            return False
        return not any(vocabulary.pieces[number].strip() for number in ids[ids != self.unknown_id].tolist())

    def check(self, tokens: SideTokens) -> None:
        """Refuse a sample of which this tokenizer keeps nothing that could be learned.

        Raises:
            SampleError: The sample cannot be used.
        """
        own = tokens.text.token_ids[tokens.of_content]
        if len(own) == 0:
            reason = SkipReason.NOTHING_SCORED if len(tokens.text) else SkipReason.UNREPRESENTABLE
            raise SampleError(
                reason,
                f"No token of the {self.side}'s starts in what is to be learned: its tokenizer drops it, or joins it "
                "to what stands before.",
            )
        if self._knows_nothing_of(own, tokens.vocabulary):
            raise SampleError(
                SkipReason.UNREPRESENTABLE,
                f"All that is to be learned is unknown to the {self.side}'s tokenizer (token {self.unknown_id}).",
            )
        if not tokens.scored.any():
            raise SampleError(
                SkipReason.NOTHING_SCORED,
                f"The {self.side} has a single token of it, which nothing predicts: there is no token before it.",
            )


def _special_id(tokenizer: Any, name: str) -> int | None:
    number = getattr(tokenizer, name, None)
    return None if number is None else int(number)


def _unknown_id(tokenizer: Any) -> int | None:
    """The id that the model gives to what it does not know; a role that is only named is no such id."""
    backend = backend_of(tokenizer)
    if hasattr(backend.model, "unk_token"):
        token = backend.model.unk_token
        return None if token is None else backend.token_to_id(token)
    number = json.loads(backend.to_str())["model"].get("unk_id")
    return None if number is None else int(number)
