"""Everything that stands before the first training step: text, tokenizers, tokens."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from examples.two_tokenizers.batches import Example, collate, draw_batches, tokenize_for_both
from examples.two_tokenizers.measuring import HeldOut
from examples.two_tokenizers.text import SPLIT_SEED, load_corpus
from examples.two_tokenizers.tokenizers import train_byte_level_bpe, train_metaspace_bpe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerFast

    from examples.two_tokenizers.batches import Batch
    from examples.two_tokenizers.settings import Settings


Part = Literal["teacher", "pretraining", "student"]
"""Who reads a part of the training text: the teacher, the student before it is distilled, the student when it is."""

MEASURED_AT_ONCE: Final = 32


@dataclass(frozen=True)
class Preparation:
    """What all models are trained and measured on.

    Args:
        train: training texts of the teacher: docstrings and chapters.
        pretraining: those of them that the student has read before it is distilled: one half of the docstrings.
        student_train: those of them from which each seed draws the student's texts: chapters.
        student_texts: how many it draws.
        dev: chapters on which settings are chosen.
        held_out_examples: the texts of `held_out`, one by one.
        held_out: chapters on which models are compared.
        student_tokenizer: Metaspace BPE with byte fallback.
        teacher_tokenizer: byte-level BPE.
    """

    train: list[Example]
    pretraining: list[Example]
    student_train: list[Example]
    student_texts: int
    dev: HeldOut
    held_out_examples: list[Example]
    held_out: HeldOut
    student_tokenizer: PreTrainedTokenizerFast
    teacher_tokenizer: PreTrainedTokenizerFast

    @property
    def padding(self) -> dict[str, int]:
        """The padding id of each side."""
        return _padding(self.student_tokenizer, self.teacher_tokenizer)

    def training_batches(self, part: Part, batch_size: int, steps: int, seed: int) -> list[Batch]:
        """Return training batches of a part; the same seed gives the same ones."""
        examples = {"teacher": self.train, "pretraining": self.pretraining, "student": self.student_train}[part]
        if part == "student":
            examples = random.Random(seed).sample(examples, self.student_texts)
        return draw_batches(examples, self.padding, batch_size=batch_size, steps=steps, seed=seed)

    def description(self) -> str:
        """Return how much text there is."""
        return (
            f"Teacher: {_amount(self.train)}, docstrings and chapters of the language reference. "
            f"Student, before: {_amount(self.pretraining)}, docstrings; distilled with {self.student_texts:,} of "
            f"{len(self.student_train):,} texts of the reference. Measured on {_amount(self.held_out_examples)} of "
            f"other chapters. Vocabularies: teacher {len(self.teacher_tokenizer):,}, "
            f"student {len(self.student_tokenizer):,} tokens."
        )


def prepare(settings: Settings) -> Preparation:
    """Read the text, train both tokenizers on its training part, and tokenize all of it by both."""
    corpus = load_corpus(chunk_bytes=settings.chunk_bytes, max_documents=settings.max_documents)
    train = (*corpus.docstrings, *corpus.more_docstrings, *corpus.chapters)
    tokenizers = (
        train_metaspace_bpe(train, settings.student_vocabulary),
        train_byte_level_bpe(train, settings.teacher_vocabulary),
    )
    docstrings, more_docstrings, chapters = (
        tokenize_for_both(part, *tokenizers) for part in (corpus.docstrings, corpus.more_docstrings, corpus.chapters)
    )
    dev, held_out = (
        tokenize_for_both(random.Random(SPLIT_SEED).sample(part, min(settings.held_out_chunks, len(part))), *tokenizers)
        for part in (corpus.dev, corpus.test)
    )
    padding = _padding(*tokenizers)
    return Preparation(
        train=[*docstrings, *more_docstrings, *chapters],
        pretraining=docstrings,
        student_train=chapters,
        student_texts=min(settings.student_texts, len(chapters)),
        dev=_to_measure(dev, padding),
        held_out_examples=held_out,
        held_out=_to_measure(held_out, padding),
        student_tokenizer=tokenizers[0],
        teacher_tokenizer=tokenizers[1],
    )


def _padding(student_tokenizer: PreTrainedTokenizerFast, teacher_tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    return {"student": int(student_tokenizer.pad_token_id), "teacher": int(teacher_tokenizer.pad_token_id)}


def _to_measure(examples: list[Example], padding: Mapping[str, int]) -> HeldOut:
    firsts = range(0, len(examples), MEASURED_AT_ONCE)
    return HeldOut(
        batches=[collate(examples[first : first + MEASURED_AT_ONCE], padding) for first in firsts],
        utf8_bytes=sum(len(example.text.encode()) for example in examples),
    )


def _amount(examples: list[Example]) -> str:
    size = sum(len(example.text.encode()) for example in examples)
    return f"{len(examples):,} texts ({size / 1e3:,.0f} kB)"
