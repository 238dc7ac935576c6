r"""What every token of a vocabulary stands for, as UTF-8 bytes of ordinary text.

Vocabularies write the same text in different letters: byte-level BPE has ``Ġthe``, SentencePiece ``▁the`` and
``<0x0A>``, WordPiece ``##ing``. Written as bytes they are the same thing, ``b" the"``, ``b"\n"``,
``b"ing"``.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary

import numpy as np

from dskd_components.tokenization.arrays import BoolArray, IntArray
from dskd_components.tokenization.fast_tokenizers import backend_of
from dskd_components.tokenization.tokenizer_snapshot import FEW_ADDED, TokenizerSnapshot

Family = Literal["byte-level", "metaspace", "wordpiece", "plain"]
"""How a vocabulary writes text: GPT-2 byte letters, ``▁`` for a space, ``##`` inside words, or as it is."""

SPACE_MARKERS: Final[dict[Family, str]] = {
    "byte-level": "Ġ",
    "metaspace": "▁",
    "wordpiece": "##",
    "plain": " ",
}
"""What marks a space, or the lack of one, in a vocabulary's token strings."""

SPACE_LETTER = "▁"
NO_IDS = np.zeros(0, dtype=np.int64)
BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class OffsetTrimming:
    """How a post-processor takes the spaces of tokens out of their offsets.

    Attributes:
        keeps_prefix: Whether it spares a single leading space of the first token.
    """

    keeps_prefix: bool


@dataclass(frozen=True, eq=False)
class VocabularyBytes:
    """The bytes that each token id stands for.

    Attributes:
        family: How the vocabulary writes text.
        pieces: The bytes of every id up to the largest one in use; empty for ids not in use.
        added: Which ids are added tokens: matched in the text as they are, before the model sees it.
        special: Which ids are special added tokens.
        continues_word: Which ids are WordPiece tokens that continue a word.
        byte_tokens: Which ids are single bytes written as ``<0x0A>``.
        trimming: How the post-processor takes the spaces of a token out of its offsets; None if it does not.
    """

    family: Family
    pieces: tuple[bytes, ...]
    added: BoolArray
    special: BoolArray
    continues_word: BoolArray
    byte_tokens: BoolArray
    trimming: OffsetTrimming | None

    @cached_property
    def has_many_added(self) -> bool:
        """Whether there are more added tokens than can be compared at each call."""
        return int(self.added.sum()) > FEW_ADDED

    @cached_property
    def has_empty(self) -> bool:
        """Whether there are ids that stand for no bytes."""
        return b"" in self.pieces

    @cached_property
    def lengths(self) -> IntArray:
        """How many bytes each id stands for."""
        return np.fromiter(map(len, self.pieces), dtype=np.int64, count=len(self.pieces))

    @cached_property
    def leading_spaces(self) -> IntArray:
        """How many spaces each id starts with; 0 for ids of nothing but spaces."""
        counts = (len(piece) - (len(piece.lstrip(b" ")) or len(piece)) for piece in self.pieces)
        return np.fromiter(counts, dtype=np.int64, count=len(self.pieces))


def byte_letters() -> dict[str, int]:
    """The letter that byte-level BPE prints for each byte, and the byte it stands for.

    Printable Latin-1 letters stand for themselves; the other bytes, in order, for the letters from U+0100 on.

    Examples:
        >>> byte_letters()["Ġ"], byte_letters()["A"]
        (32, 65)
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(hidden)}


def _components(backend: Any, part: str) -> list[dict[str, Any]]:
    """The steps of a normaliser, pre-tokeniser, post-processor or decoder, sequences flattened."""
    component = getattr(backend, part)
    pending = [] if component is None else [json.loads(component.__getstate__())]
    found: list[dict[str, Any]] = []
    while pending:
        step = pending.pop(0)
        found.append(step)
        for nested in ("normalizers", "pretokenizers", "processors", "decoders"):
            pending.extend(step.get(nested, []))
    return found


def _trimming(backend: Any) -> OffsetTrimming | None:
    for step in _components(backend, "post_processor"):
        if step.get("trim_offsets"):
            return OffsetTrimming(keeps_prefix=bool(step.get("add_prefix_space")))
    return None


def _family(backend: Any) -> Family:
    if type(backend.model).__name__ == "WordPiece":
        return "wordpiece"
    steps = [step for part in ("normalizer", "pre_tokenizer", "decoder") for step in _components(backend, part)]
    if any(step["type"] == "ByteLevel" for step in steps):
        return "byte-level"
    replaced = any(step["type"] == "Replace" and SPACE_LETTER in json.dumps(step, ensure_ascii=False) for step in steps)
    if replaced or any(step["type"] == "Metaspace" for step in steps):
        return "metaspace"
    return "plain"


def _byte_level_piece(token: str, letters: dict[int, int]) -> bytes:
    try:
        return token.translate(letters).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode("utf-8", "surrogatepass")


def _is_byte_token(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and BYTE_TOKEN.fullmatch(token) is not None


def _metaspace_piece(token: str) -> bytes:
    if _is_byte_token(token):
        return bytes.fromhex(token[3:5])
    return token.replace(SPACE_LETTER, " ").encode("utf-8", "surrogatepass")


def _pieces(vocabulary: dict[str, int], family: Family, prefix: str) -> list[tuple[int, bytes]]:
    if family == "byte-level":
        letters = {ord(letter): byte for letter, byte in byte_letters().items()}
        # Latin-1 would let letters through that are not in the table.
        hidden = {byte: 0x10FFFF for byte in range(256) if byte not in letters}
        table = hidden | letters
        return [(number, _byte_level_piece(token, table)) for token, number in vocabulary.items()]
    if family == "metaspace":
        return [(number, _metaspace_piece(token)) for token, number in vocabulary.items()]
    return [
        (number, token.removeprefix(prefix).encode("utf-8", "surrogatepass")) for token, number in vocabulary.items()
    ]


def read_vocabulary_bytes(backend: Any) -> VocabularyBytes:
    """Read the table off a ``tokenizers.Tokenizer``."""
    family = _family(backend)
    prefix = getattr(backend.model, "continuing_subword_prefix", None) or ""
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=False)
    added: dict[int, Any] = backend.get_added_tokens_decoder()
    size = max([*vocabulary.values(), *added], default=-1) + 1
    pieces = [b""] * size
    for number, piece in _pieces(vocabulary, family, prefix):
        pieces[number] = piece
    is_added, is_special, continues, is_byte = (np.zeros(size, dtype=np.bool_) for _ in range(4))
    if prefix:
        continues[[number for token, number in vocabulary.items() if token.startswith(prefix)]] = True
    if family == "metaspace":
        is_byte[[number for token, number in vocabulary.items() if _is_byte_token(token)]] = True
    for number, token in added.items():
        pieces[number] = token.content.encode("utf-8", "surrogatepass")
        is_added[number], is_special[number], continues[number] = True, token.special, False
    return VocabularyBytes(family, tuple(pieces), is_added, is_special, continues, is_byte, _trimming(backend))


_TABLES: WeakKeyDictionary[Any, tuple[TokenizerSnapshot, VocabularyBytes]] = WeakKeyDictionary()


def vocabulary_bytes(tokenizer: Any) -> VocabularyBytes:
    """The bytes of every token of a fast tokenizer; read once, and again when the tokenizer has changed.

    Every token is compared with what was read, some milliseconds for a vocabulary of 100,000.

    Args:
        tokenizer: A fast ``transformers`` tokenizer or a ``tokenizers.Tokenizer``.

    Raises:
        InputError: The tokenizer is not a fast one.
    """
    return _table(tokenizer, None)


def vocabulary_bytes_for(tokenizer: Any, token_ids: Sequence[IntArray] = ()) -> VocabularyBytes:
    """The `vocabulary_bytes`, for certain where these are the tokens at hand, in a fraction of the time.

    Args:
        tokenizer: A fast ``transformers`` tokenizer or a ``tokenizers.Tokenizer``.
        token_ids: The tokens of some texts.

    Raises:
        InputError: The tokenizer is not a fast one.
    """
    return _table(tokenizer, _distinct(np.concatenate([NO_IDS, *token_ids])))


def vocabulary_bytes_as_read(tokenizer: Any) -> VocabularyBytes:
    """The `vocabulary_bytes` as they were last read: right if they have just been asked for, else yet to be checked.

    Args:
        tokenizer: A fast ``transformers`` tokenizer or a ``tokenizers.Tokenizer``.

    Raises:
        InputError: The tokenizer is not a fast one.
    """
    return _table(tokenizer, NO_IDS, checked=False)


def _distinct(ids: IntArray) -> IntArray:
    if len(ids) < 1000:
        return np.unique(ids)
    seen = np.zeros(int(ids.max()) + 1, dtype=np.bool_)  # quicker than to sort
    seen[ids] = True
    return np.flatnonzero(seen)


def _table(tokenizer: Any, ids: IntArray | None, *, checked: bool = True) -> VocabularyBytes:
    backend = backend_of(tokenizer)
    try:
        known = _TABLES.get(tokenizer)
    except TypeError:  # a tokenizer that cannot be weakly referenced or hashed
        return read_vocabulary_bytes(backend)
    if known is None or (checked and not known[0].holds(tokenizer, ids)):
        table = read_vocabulary_bytes(backend)
        known = TokenizerSnapshot(tokenizer, len(table.pieces)), table
        _TABLES[tokenizer] = known
    return known[1]
