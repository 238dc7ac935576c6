"""The same text for both models: each chunk by both tokenizers, padded, with the true correspondence."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import torch
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

IGNORED: Final = -100
Batch = dict[str, "Tensor"]
Side = Literal["student", "teacher"]
Span = tuple[int, int]


@dataclass(frozen=True)
class Tokens:
    """One text by one tokenizer.

    Args:
        ids: token ids, the begin token first.
        spans: for each id the characters that it stands for, as start and end.
    """

    ids: tuple[int, ...]
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Example:
    """One text by both tokenizers.

    Args:
        text: the text.
        student: its tokens for the student.
        teacher: its tokens for the teacher.
    """

    text: str
    student: Tokens
    teacher: Tokens


def tokenize_for_both(
    texts: Sequence[str], student_tokenizer: PreTrainedTokenizerFast, teacher_tokenizer: PreTrainedTokenizerFast
) -> list[Example]:
    """Tokenize texts by both tokenizers."""
    sides = zip(_tokenize(texts, student_tokenizer), _tokenize(texts, teacher_tokenizer), strict=True)
    return [Example(text, student, teacher) for text, (student, teacher) in zip(texts, sides, strict=True)]


def collate(examples: Sequence[Example], padding: Mapping[str, int]) -> Batch:
    """Make the columns that `DSKDLoss.run` reads.

    Args:
        examples: the texts of the batch.
        padding: the padding id of each side, ``"student"`` and ``"teacher"``.

    Returns:
        For each side ``{side}_input_ids``, ``{side}_attention_mask`` and ``{side}_labels`` ``[B, T]``, the labels -100
        at padding; and ``alignment`` ``[B, Ts]``, the true correspondence, by which the aligner measures itself.
    """
    batch: Batch = {}
    for side, tokens in (("student", [e.student for e in examples]), ("teacher", [e.teacher for e in examples])):
        rows = [torch.tensor(text.ids) for text in tokens]
        batch[f"{side}_input_ids"] = pad_sequence(rows, batch_first=True, padding_value=padding[side])
        batch[f"{side}_attention_mask"] = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        batch[f"{side}_labels"] = pad_sequence(rows, batch_first=True, padding_value=IGNORED)
    rows = [torch.tensor(true_correspondence(example)) for example in examples]
    batch["alignment"] = pad_sequence(rows, batch_first=True, padding_value=-1)
    return batch


def true_correspondence(example: Example) -> list[int]:
    """Return the teacher position of each student position, -1 where there is none.

    Two positions correspond if the tokens that they *predict*, the next ones, stand for the very same characters.
    Bytes of one character have one span between them, so they correspond to nothing.
    """
    teacher_positions = _position_of_predicted_span(example.teacher)
    student_positions = _position_of_predicted_span(example.student)
    correspondence = [-1] * len(example.student.ids)
    for span, position in student_positions.items():
        correspondence[position] = teacher_positions.get(span, -1)
    return correspondence


def draw_batches(
    examples: Sequence[Example], padding: Mapping[str, int], *, batch_size: int, steps: int, seed: int
) -> list[Batch]:
    """Return training batches: shuffled passes over the examples. The same seed gives the same batches.

    Args:
        examples: the training texts.
        padding: as in `collate`.
        batch_size: texts in a batch.
        steps: number of batches.
        seed: of the order.
    """
    order = random.Random(seed)
    waiting: list[Example] = []
    batches = []
    for _ in range(steps):
        if len(waiting) < batch_size:
            waiting = order.sample(examples, len(examples))
        chosen, waiting = waiting[:batch_size], waiting[batch_size:]
        batches.append(collate(chosen, padding))
    return batches


def _tokenize(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> Iterator[Tokens]:
    encoded = tokenizer(list(texts), return_offsets_mapping=True)
    for ids, spans in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        yield Tokens(tuple(ids), tuple((start, end) for start, end in spans))


def _position_of_predicted_span(tokens: Tokens) -> dict[Span, int]:
    """Return for each span of a single token the position that predicts it, the one before."""
    times = Counter(tokens.spans[1:])
    return {span: position for position, span in enumerate(tokens.spans[1:]) if times[span] == 1}
