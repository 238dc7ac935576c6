"""Two tokenizers of different kinds, trained on the spot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from collections.abc import Sequence

BEGIN: Final = "<s>"
PADDING: Final = "<pad>"
UNKNOWN: Final = "<unk>"


def train_byte_level_bpe(texts: Sequence[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer as GPT-2 and Llama 3 have it: words with their leading space, merged from bytes.

    Args:
        texts: training text.
        vocabulary_size: number of tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[BEGIN, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _finished(tokenizer)


def train_metaspace_bpe(texts: Sequence[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer as SentencePiece makes it for Llama 2: `▁` for a space, rare characters as bytes.

    Args:
        texts: training text.
        vocabulary_size: number of tokens, 256 bytes among them.
    """
    specials = [UNKNOWN, BEGIN, PADDING]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(byte_tokens),
        special_tokens=specials,
        limit_alphabet=96,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)

    # The bytes join the vocabulary afterwards: as special tokens they would be found in the text by their names.
    trained = json.loads(tokenizer.to_str())["model"]
    tokens = [*specials, *byte_tokens, *sorted(trained["vocab"], key=trained["vocab"].get)[len(specials) :]]
    tokenizer.model = models.BPE(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[tuple(merge) for merge in trained["merges"]],
        unk_token=UNKNOWN,
        byte_fallback=True,
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _finished(tokenizer)


def _finished(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Put BEGIN in front of every text, so that its first token is predicted too, and wrap for `transformers`."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, pad_token=PADDING)
