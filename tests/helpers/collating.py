"""Tokenizers of several kinds and chat templates, for tests of collation."""

from __future__ import annotations

import json
import pydoc_data.topics
from functools import cache
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from dskd_components.tokenization.byte_spans import TokenizedText, tokenize_with_spans

if TYPE_CHECKING:
    from torch import Tensor

# What a template may be told beside the messages; nothing is written where nothing is told.
TOLD = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% if enable_thinking is defined %}({{ enable_thinking }}){% endif %}"
)
CHATML = (
    TOLD + "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Llama 2's: BOS, contents stripped, a space before the end of a turn, no system role of its own.
LLAMA = (
    "{{ bos_token }}" + TOLD + "{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}"
    "{% elif m['role'] == 'user' %}{{ '[INST] ' + m['content'] | trim + ' [/INST]' }}"
    "{% elif m['role'] == 'system' %}{{ '<<SYS>>\n' + m['content'] + '\n<</SYS>>\n\n' }}"
    "{% else %}{{ raise_exception('no such role') }}{% endif %}{% endfor %}"
)


def corpus() -> list[str]:
    return [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)[::12]]


@cache
def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE without BOS, with a ChatML template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|endoftext|>", eos_token="<|im_end|>", chat_template=CHATML
    )


@cache
def metaspace() -> PreTrainedTokenizerFast:
    """SentencePiece-like BPE with byte fallback, dummy prefix and BOS, with a Llama-2-like template."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>"]
    tokens = specials + [f"<0x{byte:02X}>" for byte in range(256)]
    # No pre-tokenizer cuts words here, so the corpus is given in short stretches.
    words = [" ".join(text.split()[start : start + 3]) for text in corpus() for start in range(0, 400, 3)]
    backend.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=700, special_tokens=tokens, limit_alphabet=60, show_progress=False)
    )
    return with_template(wrap_specials(backend, specials), "<s>")


def wrap_specials(backend: Tokenizer, specials: list[str]) -> Tokenizer:
    """The same tokenizer with these special tokens alone: byte tokens are ordinary ones."""
    description = json.loads(backend.to_str())
    description["added_tokens"] = [token for token in description["added_tokens"] if token["content"] in specials]
    return Tokenizer.from_str(json.dumps(description))


def with_template(backend: Tokenizer, bos: str) -> PreTrainedTokenizerFast:
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token="</s>", unk_token="<unk>", chat_template=LLAMA
    )


def with_other_template(tokenizer: Any, template: str) -> PreTrainedTokenizerFast:
    """A tokenizer with another chat template; the shared one stays as it is."""
    specials = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    given = {name: value for name, value in specials.items() if value is not None}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, chat_template=template, **given)


@cache
def unigram() -> PreTrainedTokenizerFast:
    """Unigram with NFKC and no byte fallback, whose template ends with EOS."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace()
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=specials, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(corpus(), trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", backend.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", pad_token="<pad>", chat_template=CHATML
    )


@cache
def wordpiece() -> PreTrainedTokenizerFast:
    """Lower-casing WordPiece with [CLS] and [SEP] and no EOS."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    backend.train_from_iterator(corpus(), trainer)
    backend.add_special_tokens([AddedToken("<|im_end|>", special=True, normalized=False)])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", chat_template=CHATML)


KINDS = {maker.__name__: maker for maker in (byte_level, metaspace, unigram, wordpiece)}
PAIRS = [("byte_level", "metaspace"), ("metaspace", "unigram"), ("wordpiece", "byte_level"), ("unigram", "wordpiece")]

# Words, so that tokens are long; and anything else, so that nothing is taken for granted.
WORDS = st.lists(
    st.sampled_from(
        ["the", " statement", " is", "  value", "\n", " 12345", "é", "e\u0301", " ½", "😀", "ﬁ", "user", "s"]
    ),
    max_size=12,
).map("".join)
ANYTHING = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TEXTS = WORDS | ANYTHING | st.tuples(WORDS, ANYTHING, WORDS).map("".join)


def core(data: bytes, span: tuple[int, int]) -> tuple[int, int]:
    """A span without its leading spaces, unless there is nothing else in it."""
    start, end = span
    while start < end and data[start : start + 1] == b" ":
        start += 1
    return (start, end) if start < end else span


def spans_of(tokenizer: Any, text: str) -> tuple[TokenizedText, list[tuple[int, int]]]:
    tokenized = tokenize_with_spans(tokenizer, text)
    return tokenized, [span for span in tokenized.spans if span is not None]


def row_of(batch: dict[str, Tensor], side: str, row: int = 0) -> dict[str, list[int]]:
    """One side of one sample of a padded batch, without its padding."""
    kept = batch[f"{side}_attention_mask"][row].bool()
    names = ("input_ids", "labels", "groups")
    return {name: batch[f"{side}_{name}"][row][kept].tolist() for name in names if f"{side}_{name}" in batch}


def members(groups: list[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        if group >= 0:
            found.setdefault(group, []).append(index)
    return found
