"""The alignment that cross-model attention has learned, for one held-out sentence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from examples.two_tokenizers.batches import collate, tokenize_for_both, true_correspondence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from dskd_components import DSKDLoss
    from examples.two_tokenizers.batches import Example, Tokens
    from examples.two_tokenizers.preparation import Preparation

SENTENCE: Final = re.compile(
    r"(?<=[.:] )[A-Z][a-z]+ [^\n.>]{40,64}\.(?= )|^[A-Z][a-z]+ [^\n.>]{40,64}\.$", re.MULTILINE
)
"""A sentence that is short enough for a figure."""


@dataclass(frozen=True)
class LearnedAlignment:
    """Where each student token looks among the teacher's.

    Args:
        text: the sentence.
        student_tokens: what the student's positions predict, as text.
        teacher_tokens: likewise for the teacher.
        weights: ``[student tokens, teacher tokens]``, rows sum to 1.
        true_pairs: those tokens that stand for the very same characters, as row and column.
    """

    text: str
    student_tokens: list[str]
    teacher_tokens: list[str]
    weights: Tensor
    true_pairs: list[tuple[int, int]]


def first_sentence(examples: Sequence[Example]) -> str:
    """Return the first short sentence of the texts, or the beginning of the first text."""
    for example in examples:
        if found := SENTENCE.search(example.text):
            return found.group()
    return examples[0].text[:64]


@torch.no_grad()
def learned_alignment(
    loss_fn: DSKDLoss, student: PreTrainedModel, teacher: PreTrainedModel, prepared: Preparation
) -> LearnedAlignment:
    """Ask the trained aligner about a held-out sentence.

    Args:
        loss_fn: owns the aligner, cross-model attention.
        student: the trained student.
        teacher: the teacher.
        prepared: held-out text and tokenizers.
    """
    text = first_sentence(prepared.held_out_examples)
    example = tokenize_for_both([text], prepared.student_tokenizer, prepared.teacher_tokenizer)[0]
    batch = collate([example], prepared.padding)
    aligned = loss_fn.align(
        loss_fn.states(student.eval(), batch, "student"), loss_fn.states(teacher.eval(), batch, "teacher")
    )
    return LearnedAlignment(
        text=text,
        student_tokens=_texts(example.text, example.student),
        teacher_tokens=_texts(example.text, example.teacher),
        weights=aligned.weights(0)[:-1, :-1],
        true_pairs=[(row, column) for row, column in enumerate(true_correspondence(example)) if column >= 0],
    )


def _texts(text: str, tokens: Tokens) -> list[str]:
    """Return the characters of each predicted token, all but the begin token, with spaces made visible."""
    return [text[start:end].replace(" ", "␣").replace("\n", "⏎") for start, end in tokens.spans[1:]]
