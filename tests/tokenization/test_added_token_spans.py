"""Spans around added tokens: every kind of tokenizer, every way to treat space, every kind of added token.

The oracle reads no offsets: it lays the bytes of the tokens along the text.
"""

import json
import unicodedata
from functools import cache
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from dskd_components.aligners.align_text import align_text
from dskd_components.tokenization.byte_spans import tokenize_batch_with_spans, tokenize_with_spans
from examples.offline.tokenizers import byte_glyphs
from tests.helpers.spelling_oracle import Spelled, Splits, right_spans

SCHEMES = {
    "byte_level": ("plain", "prefix", "digits"),
    "metaspace": ("never", "first", "always", "prepend", "digits", "words"),
    "byte_fallback": ("never", "first", "always", "prepend"),
    "unigram": ("never", "first", "always", "prepend", "words"),
    "wordpiece": ("plain",),
}
"""Where a family's tokenizers put a space that the text has not: at the text's start, after added tokens, before each
digit, before each word."""
CASES = [(family, scheme) for family, schemes in SCHEMES.items() for scheme in schemes]
TRIMMING = {"whole": None, "trimmed": False, "trimmed but the first": True}
"""Whether the post-processor takes spaces out of offsets, and whether it spares the first token's."""
KINDS = {
    "plain": {},
    "lstrip": {"lstrip": True},
    "rstrip": {"rstrip": True},
    "both": {"lstrip": True, "rstrip": True},
    "single_word": {"single_word": True},
    "normalized": {"normalized": True},
}
AROUND = ("", "the", " the", "the ", "  he", "\n", "\u00c9 the", "e\u0301", "1he 1\n2")
PAIRS = [(AROUND[index], AROUND[index - step]) for step in (0, 2, 5) for index in range(len(AROUND))]
TEXTS = [
    *(f"{before}<x>{after}" for before, after in PAIRS),
    *(f"he<x>{between}<y>the" for between in AROUND),
    *(f" <x>{between}<x> the" for between in AROUND),
    *(f"<y>{text}{text}" for text in AROUND),
]
CORPUS = ["the other he then  the\n é É e\u0301 the the he thé hÉ 1 2 1he he1 2e e2", "<x> <y>the >he"] * 4
LETTERS = sorted({letter for text in CORPUS for letter in text + text.lower()} | {"▁"})


def rewritten(text):
    return unicodedata.normalize("NFC", text).lower()


@cache
def trained(family, rewrites):
    """A small model of a family, before anything is said about space."""
    unknown = {"wordpiece": "[UNK]", "byte_level": None}.get(family, "<unk>")
    specials = [] if unknown is None else [unknown]
    options = {"show_progress": False, "initial_alphabet": LETTERS}
    backend = Tokenizer(models.BPE(unk_token=unknown))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    if family == "wordpiece":
        backend = Tokenizer(models.WordPiece(unk_token=unknown))
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=specials, **options)
    elif family == "unigram":
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=specials, unk_token=unknown, **options)
    elif family == "byte_level":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=300, **options)
    elif family == "metaspace":
        trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=specials, **options)
    else:
        backend = Tokenizer(models.BPE(unk_token=unknown, byte_fallback=True, fuse_unk=True))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        specials += [f"<0x{byte:02X}>" for byte in range(256)]
        options["initial_alphabet"] = [letter for letter in LETTERS if letter.isascii() or letter == "▁"]
        trainer = trainers.BpeTrainer(vocab_size=316, limit_alphabet=30, special_tokens=specials, **options)
    backend.train_from_iterator([rewritten(text) if rewrites else text for text in CORPUS], trainer)
    description = json.loads(backend.to_str())
    kept = [token for token in description["added_tokens"] if not token["content"].startswith("<0x")]
    return json.dumps(description | {"added_tokens": kept})


def pre_tokenizer(family, scheme):
    add_space = pre_tokenizers.ByteLevel if family == "byte_level" else pre_tokenizers.Metaspace
    match scheme:
        case "digits":
            return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), add_space()])
        case "words":
            return pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), add_space()])
        case "prepend":
            return pre_tokenizers.Sequence([])
        case "plain" | "prefix":
            return pre_tokenizers.ByteLevel(add_prefix_space=scheme == "prefix")
        case _:
            return pre_tokenizers.Metaspace(prepend_scheme=scheme)


def tokenizer_of(family, scheme, trimming, kind, rewrites):
    """A tokenizer of a family with an added token of a kind, ``<x>``, and a plain one, ``<y>``."""
    backend = Tokenizer.from_str(trained(family, rewrites))
    if family != "wordpiece":
        backend.pre_tokenizer = pre_tokenizer(family, scheme)
    steps = [normalizers.NFC(), normalizers.Lowercase()] if rewrites else []
    if scheme == "prepend":
        steps += [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    backend.normalizer = normalizers.Sequence(steps)
    if TRIMMING[trimming] is not None:
        backend.post_processor = processors.ByteLevel(trim_offsets=True, add_prefix_space=TRIMMING[trimming])
    backend.add_tokens([AddedToken("<x>", **{"normalized": False} | KINDS[kind]), AddedToken("<y>", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


GLYPHS = {glyph: byte for byte, glyph in byte_glyphs().items()}


def spelled(family, scheme, kind, token):
    if token in ("<x>", "<y>"):
        flags = KINDS[kind] if token == "<x>" else {}
        strips = {name: flags.get(name, False) for name in ("lstrip", "rstrip")}
        # The normaliser puts a space before the added token too, which may be matched by one of the text.
        takes_space = scheme == "prepend" and flags.get("normalized", False)
        return Spelled(token.encode(), added=True, may_take_space=takes_space, **strips)
    assert token not in ("<unk>", "[UNK]")
    if family == "byte_level":
        return Spelled(bytes(GLYPHS[letter] for letter in token))
    if family == "wordpiece":
        return Spelled(token.removeprefix("##").encode())
    return Spelled(bytes([int(token[3:5], 16)]) if token.startswith("<0x") else token.replace("▁", " ").encode())


def check(family, scheme, trimming, kind, rewrites, texts):
    tokenizer = tokenizer_of(family, scheme, trimming, kind, rewrites)
    added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
    splits = Splits(
        drop_spaces=family == "wordpiece" or scheme == "words",
        digits=scheme == "digits",
        doubles_spaces=scheme == "prepend",
    )
    for text, found in zip(texts, tokenize_batch_with_spans(tokenizer, texts), strict=True):
        tokens = [
            spelled(family, scheme, kind, added.get(number) or tokenizer.convert_ids_to_tokens(number))
            for number in found.token_ids.tolist()
        ]
        right = right_spans(text, tokens, normalize=rewritten if rewrites else str, splits=splits)
        assert found.spans == right, (text, found.tokens, trimming, kind, rewrites)


@pytest.mark.parametrize(("family", "scheme"), CASES)
def test_spans_are_those_that_the_tokens_spell(family, scheme):
    for trimming, kind, rewrites in product(TRIMMING, KINDS, (False, True)):
        check(family, scheme, trimming, kind, rewrites, TEXTS)


parts = st.sampled_from(["<x>", "<y>", " ", "\n", "the", "he", "1", "é", "É", "e\u0301", ">"])


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(CASES), st.sampled_from([*TRIMMING]), st.sampled_from([*KINDS]), st.booleans(),
    st.lists(parts, max_size=9).map("".join),
)  # fmt: skip
def test_spans_of_any_text_are_those_that_the_tokens_spell(case, trimming, kind, rewrites, text):
    check(*case, trimming, kind, rewrites, [text])


@pytest.mark.parametrize("rewrites", [False, True])
@pytest.mark.parametrize("trimming", TRIMMING)
def test_a_word_after_an_added_token_pairs_with_itself(trimming, rewrites):
    student = tokenizer_of("byte_level", "prefix", trimming, "plain", rewrites)
    teacher = tokenizer_of("byte_level", "plain", trimming, "plain", rewrites)
    alignment = align_text(student, teacher, "he<x>the <y>he")
    assert [alignment.student.surfaces()[index] for index, _ in alignment.pairs][:3] == ["he", "<x>", "the"]
    assert all(alignment.student.spans[one][1] == alignment.teacher.spans[other][1] for one, other in alignment.pairs)


@pytest.mark.parametrize("prefix", [False, True])
def test_a_template_does_not_change_what_trimming_took(prefix):
    plain = tokenizer_of("byte_level", "prefix", "whole", "rstrip", rewrites=True)
    backend = Tokenizer.from_str(plain.backend_tokenizer.to_str())
    trims = processors.ByteLevel(trim_offsets=True, add_prefix_space=prefix)
    ends = [("<y>", backend.token_to_id("<y>"))]
    template = processors.TemplateProcessing(single="<y> $A <y>", special_tokens=ends)
    roberta = processors.RobertaProcessing(ends[0], ends[0], trim_offsets=True, add_prefix_space=prefix)
    for text in TEXTS:
        right = tokenize_with_spans(plain, text).spans
        for processor in (
            processors.Sequence([trims, template]),
            processors.Sequence([template, trims]),
            roberta,
        ):
            backend.post_processor = processor
            assert tokenize_with_spans(Tokenizer.from_str(backend.to_str()), text).spans == right
            found = tokenize_with_spans(Tokenizer.from_str(backend.to_str()), text, add_special_tokens=True)
            assert found.spans[found.bos_count : len(found) - found.eos_count] == right
