"""Two small models that read the same text by two tokenizers."""

from __future__ import annotations

from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import TYPE_CHECKING

import torch

from dskd_components import DSKDLoss, DSKDSpec, DualTokenizerCollator
from examples.two_tokenizers.models import new_student, new_teacher
from examples.two_tokenizers.tokenizers import train_byte_level_bpe, train_metaspace_bpe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PROMPT_WORDS = 4
SAMPLES = 16


@dataclass(frozen=True)
class Pair:
    """What a run of distillation starts from.

    Args:
        student: a GPT-2-style model.
        teacher: a Llama-style model, wider.
        student_tokenizer: Metaspace BPE.
        teacher_tokenizer: byte-level BPE.
        loss_fn: DSKD with cross-model attention, in the form that does not depend on how batches are cut.
        collate: makes batches of samples.
        samples: prompts with responses of uneven lengths.
    """

    student: PreTrainedModel
    teacher: PreTrainedModel
    student_tokenizer: PreTrainedTokenizerFast
    teacher_tokenizer: PreTrainedTokenizerFast
    loss_fn: DSKDLoss
    collate: DualTokenizerCollator
    samples: list[dict[str, str]]


def tiny_pair(seed: int = 0, spec: DSKDSpec | None = None) -> Pair:
    """Build models, tokenizers, loss and data; the same ones for the same seed.

    Args:
        seed: of all initial weights.
        spec: of the loss; None: the one that `Pair` describes.
    """
    text = [line.strip() for name in ("assert", "pass", "del", "break") for line in topics[name].splitlines()]
    lines = [line for line in text if len(line.split()) > PROMPT_WORDS]
    student_tokenizer = train_metaspace_bpe(lines, 400)
    teacher_tokenizer = train_byte_level_bpe(lines, 320)
    student = new_student(student_tokenizer, width=32, layers=1, max_length=128, seed=seed)
    teacher = new_teacher(teacher_tokenizer, width=64, layers=1, max_length=128, seed=seed)
    torch.manual_seed(seed)
    spec = spec or DSKDSpec.preset("dskd-cma", aligner={"name": "cma", "std": "sample"})
    loss_fn = DSKDLoss.from_models(spec, student, teacher, student_tokenizer, teacher_tokenizer)
    return Pair(
        student=student,
        teacher=teacher.eval(),
        student_tokenizer=student_tokenizer,
        teacher_tokenizer=teacher_tokenizer,
        loss_fn=loss_fn,
        collate=loss_fn.collator(student_tokenizer, teacher_tokenizer),
        samples=[_sample(line, number) for number, line in enumerate(lines[:SAMPLES])],
    )


def _sample(line: str, number: int) -> dict[str, str]:
    words = line.split()
    # Some responses are much shorter than others, so that micro-batches score uneven numbers of tokens.
    length = len(words) if number % 3 else PROMPT_WORDS + 1
    return {"prompt": " ".join(words[:PROMPT_WORDS]), "response": " " + " ".join(words[PROMPT_WORDS:length])}
