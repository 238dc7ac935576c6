"""Texts in the tokens of two small tokenizers, for laws of aligners that read texts.

The tokenizers are written down, not trained, and each is awkward in a way of its own: bytes inside characters, spaces
of their own, spaces that no token has, letters that a normaliser writes anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from hypothesis import strategies as st

from dskd_components.tokenization.byte_spans import tokenize_batch_with_spans

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dskd_components.tokenization.byte_spans import TokenizedText

MERGES: Final = ("t h", "th e", "Ġ the", "Ġ n", "e w", "Ġn ew", "Ġ Ġ", "Ã ©", "1 2", ". Ċ")
"""Of the tokenizers in byte letters."""

PIECES: Final = ("▁the", "▁new", "▁", "th", "e", "n", "ew", "f", "o", "u", "d", "é", "t", "h", "w", "1", "2", "12", ".")
"""Of the tokenizer with a mark for spaces, which spells all else by its bytes."""

WORDS: Final = ("the", "new", "found", "##found", "##land", "land", "cafe", "1", "##2", ".", ",", "fine")
"""Of the tokenizer that knows words and their continuations."""

TRICKY_TEXTS: Final = (
    "",
    " ",
    "the new newfoundland.",
    "  the  new\n\n  the ",
    "café cafe\u0301 é",
    "½ the ﬁne the",
    "the😀 日本 new",
    "the\u00a0new\u200bthe\t\r\nnew",
    "<|s|>the <|s|> new<|s|>",
    "▁the Ġthe ##the <0x0A>",
    "12 121 2.\n",
    "a\x00b \u0301",
)
"""Texts on which tokenizers differ in more than where they cut."""

PARTS: Final = (
    "the",
    " ",
    "new",
    "found",
    "12",
    ".",
    "\n",
    "é",
    "e\u0301",
    "½",
    "ﬁ",
    "日",
    "😀",
    "<|s|>",
    "\u200b",
)
"""What other texts are put together from."""


@dataclass(frozen=True, eq=False, repr=False)
class TextPair:
    """One text in the tokens of both sides.

    Args:
        student: the student's tokens.
        teacher: the teacher's.
    """

    student: TokenizedText
    teacher: TokenizedText

    def __repr__(self) -> str:
        return f"{self.student.text!r} as {self.student.surfaces()} and {self.teacher.surfaces()}"


def pairs_of(student: Any, teacher: Any, texts: Sequence[str]) -> tuple[TextPair, ...]:
    """Return texts in the tokens of two tokenizers, for laws that are called with other texts or tokenizers.

    Args:
        student: a fast tokenizer.
        teacher: a fast tokenizer.
        texts: the texts.

    Examples:
        >>> pairs_of(small_tokenizer("byte_level"), small_tokenizer("wordpiece"), ["the new"])
        ('the new' as ['the', ' new'] and ['the', ' new'],)
    """
    sides = (tokenize_batch_with_spans(tokenizer, texts) for tokenizer in (student, teacher))
    return tuple(TextPair(*both) for both in zip(*sides, strict=True))


def _byte_level(*, normalizer: Any = None) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*letters, *(pair.replace(" ", "") for pair in MERGES)])}
    merges = [(left, right) for left, right in (pair.split(" ") for pair in MERGES)]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens([AddedToken("<|s|>", special=True, normalized=False)])
    return tokenizer


def _rewriting() -> Any:
    from tokenizers import normalizers

    return _byte_level(normalizer=normalizers.NFKC())


def _metaspace() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [("t", "h"), ("e", "w"), ("1", "2")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return tokenizer


def _wordpiece() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {token: number for number, token in enumerate(("[UNK]", *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


SMALL_TOKENIZERS: Final[dict[str, Callable[[], Any]]] = {
    "byte_level": _byte_level,
    "metaspace": _metaspace,
    "wordpiece": _wordpiece,
    "rewriting": _rewriting,
}
"""What makes each tokenizer, by name."""


@cache
def small_tokenizer(name: str) -> Any:
    """Return one of the small tokenizers, a ``tokenizers.Tokenizer``.

    Args:
        name: a key of `SMALL_TOKENIZERS`.

    Examples:
        >>> small_tokenizer("byte_level").encode("the new").tokens
        ['the', 'Ġnew']
    """
    return SMALL_TOKENIZERS[name]()


SEVERAL_WORDS: Final = "the new words are here"
"""A text in which whatever makes groups has more than one to make."""


@st.composite
def text_pairs(draw: st.DrawFn, *, max_size: int = 3, one_tokenizer: bool = False) -> tuple[TextPair, ...]:
    """A few texts, one of them of several words, each in the tokens of two small tokenizers.

    Args:
        draw: given by hypothesis.
        max_size: how many at most, besides the one of several words; one at least.
        one_tokenizer: whether both sides have the same tokenizer.

    Examples:
        >>> from hypothesis import given
        >>> @given(text_pairs())
        ... def test_one_text(texts):
        ...     assert all(pair.student.text == pair.teacher.text for pair in texts)
        >>> test_one_text()
    """
    names = st.sampled_from([*SMALL_TOKENIZERS])
    student = draw(names)
    teacher = student if one_tokenizer else draw(names)
    put_together = st.lists(st.sampled_from(PARTS), max_size=8).map("".join)
    texts = draw(st.lists(st.one_of(st.sampled_from(TRICKY_TEXTS), put_together), min_size=1, max_size=max_size))
    return pairs_of(small_tokenizer(student), small_tokenizer(teacher), [*texts, SEVERAL_WORDS])
