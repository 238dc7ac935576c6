"""The part of a text that each token stands for, in UTF-8 bytes.

Tokenizers disagree on everything but the text itself, so the text's bytes are the ruler that both sides are
measured with. The rules, for every kind of tokenizer:

- A token's span is the bytes of the *original* text it stands for. Spans never go backwards.
- Tokens that a template adds (BOS, EOS) have no span. They have a role.
- A token that stands for no text, such as the ``▁`` of a dummy prefix before a text that does not start with
  a word, has an empty span where it stands.
- Whitespace that an added token strips from the text around it belongs to that token, but for a space that the
  next token spells.
- Other whitespace that no token stands for belongs to the next token, anything else that was dropped (a combining
  mark, a control character) to the previous one; at either end of the text, to the token that is there.
- A character that a tokenizer splits over several tokens is split by bytes where the tokens spell out its
  bytes. Where a normaliser turned it into something else (``½`` into ``1⁄2``) it is an atom: every token that
  came from it has the whole of it in its span, so that these spans overlap.
- A leading space belongs to the token that spells it: ``Ġthe`` and ``▁the`` both span `` the``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dskd_components.tokenization.fast_tokenizers import backend_of, encode_batch
from dskd_components.tokenization.offset_spans import spans_from_offsets, untrimmed
from dskd_components.tokenization.token_bytes import (
    SPACE_MARKERS,
    VocabularyBytes,
    vocabulary_bytes_as_read,
    vocabulary_bytes_for,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dskd_components.tokenization.arrays import BoolArray, IntArray

SPACE = 0x20


def core_starts(data: bytes, starts: IntArray, ends: IntArray) -> IntArray:
    r"""Where spans start once their leading spaces are set aside.

    This is the one rule for ``Ġthe``, ``▁the`` and a space token followed by ``the``: a run of spaces
    (U+0020) at the start of a span is not compared, so all three ``the`` are equal. A token of nothing but
    spaces is compared whole. Other whitespace (tab, newline, no-break space) is text like any other.

    Args:
        data: The text in UTF-8.
        starts: Where the spans start ``[T]``.
        ends: Where they end ``[T]``.

    Returns:
        The starts without leading spaces ``[T]``.

    Examples:
        >>> core_starts(b"a  the", np.array([0, 1, 1]), np.array([1, 6, 3])).tolist()
        [0, 3, 1]
    """
    solid = np.flatnonzero(np.frombuffer(data + b".", dtype=np.uint8) != SPACE)
    first = solid[np.searchsorted(solid, starts)]
    return np.where(first < ends, first, starts)


def overlapping(starts: IntArray, ends: IntArray) -> BoolArray:
    """Which spans share bytes with a neighbour: tokens inside one character that a normaliser rewrote."""
    clash = ends[:-1] > starts[1:]
    shared = np.zeros(len(starts), dtype=np.bool_)
    shared[:-1] |= clash
    shared[1:] |= clash
    return shared


@dataclass(frozen=True, eq=False)
class TokenizedText:
    """A text and its tokens, each with the bytes of the text it stands for.

    Attributes:
        text: The text.
        token_ids: The id of each token ``[T]``.
        starts: Where each token's span starts, in bytes ``[T]``; -1 for tokens that a template added.
        ends: Where it ends, exclusive ``[T]``; -1 for template tokens.
        cores: Where it starts without its leading spaces (`core_starts`) ``[T]``; -1 for tokens that have no
            bytes to themselves: those that a template added, stand for no text, or share a rewritten
            character.
        bos_count: How many tokens at the start a template added.
        eos_count: How many tokens at the end a template added.
        is_spelled: Whether the tokens' bytes, one after the other, are those of the text.
        space_marker: What marks a space, or the lack of one, in the token strings: ``Ġ``, ``▁``, ``##`` or a space.
        tokens: The token strings, as the vocabulary writes them.
    """

    text: str
    token_ids: IntArray
    starts: IntArray
    ends: IntArray
    cores: IntArray
    bos_count: int
    eos_count: int
    _encoding: Any
    is_spelled: bool = False
    space_marker: str = " "

    def __len__(self) -> int:
        return len(self.token_ids)

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The token strings, as the vocabulary writes them."""
        return tuple(self._encoding.tokens)

    @cached_property
    def data(self) -> bytes:
        """The text in UTF-8."""
        return self.text.encode()

    @property
    def text_tokens(self) -> slice:
        """The tokens that the text itself gave, without those that a template added."""
        return slice(self.bos_count, len(self) - self.eos_count)

    def without_template(self) -> TokenizedText:
        """Return the same text without the tokens that a template added; the object itself if there are none."""
        if not (self.bos_count or self.eos_count):
            return self
        own = self.text_tokens
        return replace(
            self,
            token_ids=self.token_ids[own],
            starts=self.starts[own],
            ends=self.ends[own],
            cores=self.cores[own],
            bos_count=0,
            eos_count=0,
            _encoding=TokenStrings(self, own),
        )

    @property
    def spans(self) -> list[tuple[int, int] | None]:
        """One ``(start, end)`` per token, None for tokens that a template added."""
        pairs = zip(self.starts.tolist(), self.ends.tolist(), strict=True)
        return [None if start < 0 else (start, end) for start, end in pairs]

    def surfaces(self) -> list[str]:
        r"""The part of the text that each token stands for; bytes inside a character as ``\xNN``."""
        return [
            token if span is None else self.data[span[0] : span[1]].decode(errors="backslashreplace")
            for token, span in zip(self.tokens, self.spans, strict=True)
        ]


@dataclass(frozen=True)
class TokenStrings:
    """The token strings of a part of a text, made when asked for.

    Attributes:
        text: The text.
        part: Which of its tokens.
    """

    text: TokenizedText
    part: slice

    @property
    def tokens(self) -> Sequence[str]:
        """The strings."""
        return self.text.tokens[self.part]


def tokenize_with_spans(tokenizer: Any, text: str, *, add_special_tokens: bool = False) -> TokenizedText:
    """Tokenize one text and find the bytes that each token stands for.

    Args:
        tokenizer: A fast ``transformers`` tokenizer or a ``tokenizers.Tokenizer``.
        text: The text.
        add_special_tokens: Whether to add the tokenizer's own template (BOS, EOS).

    Returns:
        The tokens and their spans.

    Raises:
        InputError: The tokenizer is a slow one, or the text is not valid Unicode.

    Examples:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> tokenizer = Tokenizer(models.BPE({"c": 0, "a": 1, "f": 2, "Ã": 3, "©": 4}, []))
        >>> tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        >>> tokenize_with_spans(tokenizer, "café").spans
        [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    """
    return tokenize_batch_with_spans(tokenizer, [text], add_special_tokens=add_special_tokens)[0]


def tokenize_batch_with_spans(
    tokenizer: Any, texts: Sequence[str], *, add_special_tokens: bool = False
) -> list[TokenizedText]:
    """Tokenize texts and find the bytes that each token stands for; see `tokenize_with_spans`."""
    encodings = encode_batch(tokenizer, texts, add_special_tokens=add_special_tokens)
    templates = [_template_counts(tokenizer, it) if add_special_tokens else (0, 0) for it in encodings]
    vocabulary = vocabulary_bytes_as_read(tokenizer)
    try:
        found = _spans_of_encodings(vocabulary, texts, encodings, templates)
    except IndexError:  # an id that the vocabulary did not have
        doubtful = [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
    else:
        # Bytes of another vocabulary hardly spell a text, so that of texts that are spelled a few tokens are enough.
        doubtful = [text.token_ids for text in found if not text.is_spelled]
        doubtful += [text.token_ids[:2] for text in found[:8]]
        if found and vocabulary.has_many_added:
            everything = np.concatenate([text.token_ids for text in found])
            doubtful.append(everything[vocabulary.added[everything]])
    current = vocabulary_bytes_for(tokenizer, doubtful)
    return found if current is vocabulary else _spans_of_encodings(current, texts, encodings, templates)


def _spans_of_encodings(
    vocabulary: VocabularyBytes,
    texts: Sequence[str],
    encodings: Sequence[Any],
    templates: Sequence[tuple[int, int]],
) -> list[TokenizedText]:
    return [
        spans_of_encoding(vocabulary, text, encoding, bos_count=template[0], eos_count=template[1])
        for text, encoding, template in zip(texts, encodings, templates, strict=True)
    ]


def spans_of_encoding(
    vocabulary: VocabularyBytes, text: str, encoding: Any, *, bos_count: int = 0, eos_count: int = 0
) -> TokenizedText:
    """The spans of a text that is tokenized already.

    Args:
        vocabulary: The `vocabulary_bytes` of the tokenizer.
        text: The text.
        encoding: Its ``tokenizers.Encoding``, neither padded nor truncated.
        bos_count: How many tokens at the start a template added.
        eos_count: How many tokens at the end a template added.
    """
    ids: list[int] = encoding.ids
    stop = len(ids) - eos_count
    text_ids = ids[bos_count:stop] if bos_count or eos_count else ids
    token_ids = np.array(ids, dtype=np.int64)
    data, text_id_array = text.encode(), token_ids[bos_count:stop]
    spans = _spelled_spans(vocabulary, data, text_ids, text_id_array)
    is_spelled = spans is not None
    if spans is None:
        offsets = np.array(encoding.offsets[bos_count:stop], dtype=np.int64).reshape(-1, 2)
        if vocabulary.trimming is not None:
            offsets = untrimmed(vocabulary.trimming, encoding.tokens[bos_count:stop], offsets, len(text))
        starts, ends = spans_from_offsets(vocabulary, text, text_id_array, offsets)
        cores = core_starts(data, starts, ends)
        cores[(starts == ends) | overlapping(starts, ends)] = -1
        spans = starts, ends, cores
    if bos_count or eos_count:
        starts, ends, cores = (np.pad(side, (bos_count, eos_count), constant_values=-1) for side in spans)
    else:
        starts, ends, cores = spans
    marker = SPACE_MARKERS[vocabulary.family]
    return TokenizedText(text, token_ids, starts, ends, cores, bos_count, eos_count, encoding, is_spelled, marker)


def _spelled_spans(
    vocabulary: VocabularyBytes, data: bytes, ids: list[int], id_array: IntArray
) -> tuple[IntArray, IntArray, IntArray] | None:
    """Spans by adding up lengths, where the tokens' bytes spell out the text; None where they do not.

    This is exact: tokens that spell the text one after the other can only lie where they spell it. A piece
    that is read wrongly (a ``▁`` that stands for itself and not for a space) does not spell the text, and
    another route is taken. One space more at the start of the text, or after an added token, is a dummy prefix.
    """
    spelled = b"".join(map(vocabulary.pieces.__getitem__, ids))
    lengths = vocabulary.lengths[id_array]
    dummies: list[int] = []
    if spelled != data:
        if len(spelled) <= len(data):
            return None
        found = [0] if spelled[1:] == data and spelled[:1] == b" " else _dummies(vocabulary, data, spelled, id_array)
        if found is None:
            return None
        dummies = found
    spaces = vocabulary.leading_spaces[id_array]
    for dummy in dummies:  # one, as a rule
        lengths[dummy] -= 1
        spaces[dummy] = max(spaces[dummy] - 1, 0)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    cores = starts + spaces
    if dummies or vocabulary.has_empty:
        cores[starts == ends] = -1
    return starts, ends, cores


def _dummies(vocabulary: VocabularyBytes, data: bytes, spelled: bytes, id_array: IntArray) -> list[int] | None:
    """The tokens that start with a space too many, each the first of the text or after an added one."""
    added = np.flatnonzero(vocabulary.added[id_array])
    if len(added) == 0:
        return None
    borders = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(vocabulary.lengths[id_array])])
    # Added tokens stand for themselves; what is between two of them may have a space too many.
    firsts = np.unique(np.concatenate([np.zeros(1, dtype=np.int64), added, added + 1]))
    firsts = firsts[firsts < len(id_array)]
    cuts = [*borders[firsts].tolist(), len(spelled)]
    place = 0
    dummies = []
    for first, start, stop in zip(firsts.tolist(), cuts[:-1], cuts[1:], strict=True):
        segment = spelled[start:stop]
        if not data.startswith(segment, place):
            if segment[:1] != b" " or not data.startswith(segment[1:], place):
                return None
            dummies.append(first)
            place -= 1
        place += len(segment)
    return dummies if place == len(data) else None


def _template_counts(tokenizer: Any, encoding: Any) -> tuple[int, int]:
    """How many tokens a template added at the start and at the end."""
    mask = encoding.special_tokens_mask
    if all(mask):  # an empty text does not show where it stands in its template
        mask = backend_of(tokenizer).encode("a", add_special_tokens=True).special_tokens_mask
        if all(mask):
            return len(mask), 0
    return mask.index(0), mask[::-1].index(0)
