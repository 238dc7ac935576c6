"""One side's tokenizer: what it puts around a text, and documents in its tokens."""

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from dskd_components.collation.chat_templates import Rendered
from dskd_components.collation.content_places import Turn
from dskd_components.collation.documents import RenderedSample
from dskd_components.collation.problems import SampleError, SkipReason
from dskd_components.collation.side_tokens import SideTokens
from dskd_components.errors import InputError, as_sentence
from dskd_components.tokenization.arrays import IntArray
from dskd_components.tokenization.byte_spans import TokenizedText, tokenize_batch_with_spans, tokenize_with_spans
from dskd_components.tokenization.fast_tokenizers import TokenizerError, backend_of, fingerprint_number
from dskd_components.tokenization.token_bytes import (
    Family,
    VocabularyBytes,
    vocabulary_bytes_as_read,
    vocabulary_bytes_for,
)

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
        self._append_eos = append_eos
        self._read(vocabulary_bytes_for(tokenizer))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the vocabulary, which copies in other processes read for themselves."""
        return self.__dict__ | {"_vocabulary": None}

    def refresh(self) -> VocabularyBytes:
        """Return the vocabulary, after reading anew what the tokenizer puts around a text if it has changed."""
        return self._refreshed(vocabulary_bytes_for(self.tokenizer))

    def _refreshed(self, vocabulary: VocabularyBytes) -> VocabularyBytes:
        if vocabulary is not self._vocabulary or self.eos_id != _special_id(self.tokenizer, "eos_token_id"):
            self._read(vocabulary)
        return vocabulary

    def _read(self, vocabulary: VocabularyBytes) -> None:
        tokenizer = self.tokenizer
        try:
            template = tokenize_with_spans(tokenizer, "a", add_special_tokens=True)
        except TokenizerError as error:
            raise InputError(f"The {self.side}'s tokenizer cannot be used: {error}") from error
        self._vocabulary: VocabularyBytes | None = vocabulary
        self.family: Family = vocabulary.family
        self.bos_id = _special_id(tokenizer, "bos_token_id")
        self.eos_id = _special_id(tokenizer, "eos_token_id")
        self.before = template.token_ids[: template.bos_count]
        self.after = template.token_ids[len(template) - template.eos_count :]
        if self._append_eos and self.eos_id is not None and self.eos_id not in self.after:
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

    def encode(self, documents: Sequence[RenderedSample]) -> list[SideTokens | SampleError]:
        """Return one side of documents in tokens, whole, or what the tokenizer has against a text.

        What else may be wrong with single samples is left to `check`.
        """
        sides: list[Rendered] = [getattr(document, self.side) for document in documents]
        texts = self._tokenize([side.text for side in sides])
        # The texts' own tokens may have shown that it has changed since the batch began.
        vocabulary = self._refreshed(vocabulary_bytes_as_read(self.tokenizer))
        outcomes: list[SideTokens | SampleError] = []
        for document, side, text in zip(documents, sides, texts, strict=True):
            try:
                outcomes.append(
                    text if isinstance(text, SampleError) else self._side_tokens(document, side, text, vocabulary)
                )
            except SampleError as error:
                outcomes.append(error)
        return outcomes

    def _tokenize(self, texts: Sequence[str]) -> Sequence[TokenizedText | SampleError]:
        """All texts at once, or, if the tokenizer fails on one of them, each by itself."""
        try:
            return tokenize_batch_with_spans(self.tokenizer, texts)
        except TokenizerError as error:
            if len(texts) == 1:
                refusal = SampleError(
                    SkipReason.TOKENIZER_REFUSED, f"The {self.side}'s tokenizer refuses it: {as_sentence(error)}"
                )
                refusal.__cause__ = error
                return [refusal]
        return [outcome for text in texts for outcome in self._tokenize([text])]

    def _side_tokens(
        self, document: RenderedSample, side: Rendered, text: TokenizedText, vocabulary: VocabularyBytes
    ) -> SideTokens:
        contents, places = document.contents, side.places
        if not document.is_chat:
            before, after = self._around(text)
            if contents[-1].breaks_off_after is not None:
                after = NONE
            closing = -1 if self._eos_place is None or len(after) == 0 else len(text) + self._eos_place
            return SideTokens(text, before, after, contents, places, [None], [closing], vocabulary, self.unknown_id)
        # The template of a chat brings its own special tokens, BOS among them.
        turns: list[tuple[int, int] | None] = []
        closings = []
        specials = self._specials(text, vocabulary)
        for number, turn in enumerate(side.turns):
            if turn is None:
                turns.append(None)
                closings.append(-1)
                continue
            content_stop = places[number].stop if places[number].first < places[number].last else turn.start
            thoughts = contents[number].breaks_off_after
            if thoughts is not None:
                stop = content_stop if content_stop > turn.start else self._end_of_thoughts(text, turn, thoughts)
                turns.append((turn.start, stop) if contents[number].scored_from is not None else None)
                closings.append(-1)
                continue
            closing = self._end_of_turn(text, turn, content_stop, specials)
            if closing < 0 and turn.is_open:
                later = [place.start for place in places[number + 1 :] if place.first < place.last]
                closing = self._next_special(text, turn.stop, min(later, default=len(text.data)), specials)
            own = _rstripped(text.data[turn.start : turn.stop])
            stop = turn.start + len(own) if closing < 0 else int(text.ends[closing])
            turns.append((turn.start, max(stop, content_stop)) if contents[number].scored_from is not None else None)
            closings.append(closing)
        return SideTokens(text, NONE, NONE, contents, places, turns, closings, vocabulary, self.unknown_id)

    def _around(self, text: TokenizedText) -> tuple[IntArray, IntArray]:
        """What goes around a text, without a second BOS or EOS if the text spells out its own."""
        ids, before, after = text.token_ids, self.before, self.after
        if len(before) and len(ids) and ids[0] == before[0] and np.array_equal(ids[: len(before)], before):
            before = NONE
        if self.eos_id is not None and len(ids) and ids[-1] == self.eos_id:
            after = NONE
        return before, after

    def _specials(self, text: TokenizedText, vocabulary: VocabularyBytes) -> list[int]:
        """Which tokens of a text are special ones that it knows."""
        ids = text.token_ids
        special = vocabulary.special[ids]
        if self.unknown_id is not None:
            special &= ids != self.unknown_id
        if self.eos_id is not None:
            special |= ids == self.eos_id
        return np.flatnonzero(special).tolist()

    def _end_of_turn(self, text: TokenizedText, turn: Turn, content_stop: int, specials: Sequence[int]) -> int:
        """The last special token of a turn, after its content and before nothing but whitespace; -1 for none."""
        for token in reversed(specials):
            start, end = int(text.starts[token]), int(text.ends[token])
            # Special tokens may swallow whitespace on either side, so that they lie across borders.
            if start >= turn.stop or start + len(_rstripped(text.data[start:end])) > turn.stop:
                continue
            ends_it = end > content_stop and not _rstripped(text.data[end : turn.stop])
            return token if ends_it and not _rstripped(text.data[start:content_stop]) else -1
        return -1

    def _end_of_thoughts(self, text: TokenizedText, turn: Turn, thoughts: str) -> int:
        """Where the thoughts of a turn that has nothing else end; a turn of nothing has none.

        Raises:
            SampleError: The turn does not have them in one place.
        """
        data, own = text.data[turn.start : turn.stop], thoughts.strip().encode()
        if not own:
            return turn.start
        if data.count(own) != 1:
            raise SampleError(
                SkipReason.CUT_OFF,
                f"The {self.side}'s chat template leaves in doubt where its thoughts break off: {thoughts!r:.80} does "
                "not stand once in the turn. Leave the message out.",
            )
        return turn.start + data.index(own) + len(own)

    def _next_special(self, text: TokenizedText, start: int, stop: int, specials: Sequence[int]) -> int:
        """The special token that follows a turn, whitespace set aside: it ends one that brings no end of its own."""
        for token in specials:
            first, last = int(text.starts[token]), int(text.ends[token])
            if last <= start:
                continue
            begins_another = text.token_ids[token] == self.bos_id != self.eos_id
            between = text.data[min(start, first) : max(start, first)]
            return -1 if last > stop or begins_another or _rstripped(between) else token
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
        has_content = any(content.text for content in tokens.contents if content.scored_from is not None)
        own = tokens.text.token_ids[tokens.of_content if has_content else tokens.of_template]
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


def _rstripped(data: bytes) -> bytes:
    """A text without the whitespace at its end; empty if there is nothing else."""
    return data.decode(errors="replace").rstrip().encode() if data.rstrip() else b""


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
