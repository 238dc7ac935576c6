"""Everything that stands before the first training step: text, tokenizers, tokens."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from examples.two_tokenizers.batches import Example, collate, draw_batches, tokenize_for_both
from examples.two_tokenizers.measuring import HeldOut
from examples.two_tokenizers.text import SPLIT_SEED, load_corpus
from examples.two_tokenizers.tokenizers import train_byte_level_bpe, train_metaspace_bpe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from examples.two_tokenizers.batches import Batch, Side
    from examples.two_tokenizers.settings import Settings


@dataclass(frozen=True)
class Preparation:
    """What all models are trained and measured on.

    Args:
        train: training texts of the teacher.
        student_train: those of them that the students have.
        held_out_examples: the texts of `held_out`, one by one.
        held_out: texts of other documents.
        student_tokenizer: Metaspace BPE with byte fallback.
        teacher_tokenizer: byte-level BPE.
    """

    train: list[Example]
    student_train: list[Example]
    held_out_examples: list[Example]
    held_out: HeldOut
    student_tokenizer: PreTrainedTokenizerFast
    teacher_tokenizer: PreTrainedTokenizerFast

    @property
    def padding(self) -> dict[str, int]:
        """The padding id of each side."""
        return {
            "student": int(self.student_tokenizer.pad_token_id),
            "teacher": int(self.teacher_tokenizer.pad_token_id),
        }

    def training_batches(self, side: Side, batch_size: int, steps: int, seed: int) -> list[Batch]:
        """Return training batches of the teacher or of a student; the same seed gives the same ones."""
        examples = self.train if side == "teacher" else self.student_train
        return draw_batches(examples, self.padding, batch_size=batch_size, steps=steps, seed=seed)

    def description(self) -> str:
        """Return in one line how much text there is."""
        train_bytes = sum(len(example.text.encode()) for example in self.train)
        return (
            f"{len(self.train):,} training texts ({train_bytes / 1e6:.2f} MB), "
            f"{len(self.student_train):,} of them for the students; "
            f"{len(self.held_out_examples):,} held-out texts ({self.held_out.utf8_bytes / 1e3:.0f} kB) "
            f"from other documents; vocabularies: teacher {len(self.teacher_tokenizer):,}, "
            f"student {len(self.student_tokenizer):,} tokens."
        )


def prepare(settings: Settings) -> Preparation:
    """Read the text, train both tokenizers on its training part, and tokenize all of it by both."""
    corpus = load_corpus(chunk_bytes=settings.chunk_bytes, max_documents=settings.max_documents)
    teacher_tokenizer = train_byte_level_bpe(corpus.train, settings.teacher_vocabulary)
    student_tokenizer = train_metaspace_bpe(corpus.train, settings.student_vocabulary)
    measured = min(settings.held_out_chunks, len(corpus.held_out))
    held_out_texts = random.Random(SPLIT_SEED).sample(corpus.held_out, measured)
    held_out = tokenize_for_both(held_out_texts, student_tokenizer, teacher_tokenizer)
    padding = {"student": student_tokenizer.pad_token_id, "teacher": teacher_tokenizer.pad_token_id}
    train = tokenize_for_both(corpus.train, student_tokenizer, teacher_tokenizer)
    student_texts = min(settings.student_texts or len(train), len(train))
    return Preparation(
        train=train,
        student_train=random.Random(SPLIT_SEED).sample(train, student_texts),
        held_out_examples=held_out,
        held_out=HeldOut(
            batches=[collate(held_out[first : first + 32], padding) for first in range(0, len(held_out), 32)],
            utf8_bytes=sum(len(text.encode()) for text in held_out_texts),
        ),
        student_tokenizer=student_tokenizer,
        teacher_tokenizer=teacher_tokenizer,
    )
