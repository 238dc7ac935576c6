"""Distil two teachers with tokenizers of their own into one student, with weights that change on the way.

    python -m examples.two_teachers

Everything is tiny and trained on the spot, so that it takes seconds; the loop is the same for models of any size. The
first teacher counts from the beginning, the second is faded in.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.optim import AdamW
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from dskd_components import MultiTeacherLoss, MultiTeacherSpec, TeacherSpec
from dskd_components.aligners import ExactMatch
from dskd_components.spec.schedules import LinearSchedule
from examples.command_line import command_line
from examples.two_tokenizers.tokenizers import train_byte_level_bpe, train_metaspace_bpe

TEXTS: Final = [
    "Beautiful is better than ugly.",
    "Explicit is better than implicit.",
    "Simple is better than complex.",
    "Complex is better than complicated.",
    "Flat is better than nested.",
    "Sparse is better than dense.",
]


def llama(vocabulary: int, width: int) -> PreTrainedModel:
    """Build an untrained teacher.

    Args:
        vocabulary: number of tokens.
        width: of its hidden states.
    """
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    return LlamaForCausalLM(config)


def main(steps: int = 24) -> list[dict[str, float]]:
    """Train the student, and return what was logged at each step.

    Args:
        steps: how many optimizer steps.
    """
    torch.manual_seed(0)
    student_tokenizer = train_byte_level_bpe(TEXTS, 300)
    tokenizers = {"large": train_metaspace_bpe(TEXTS, 320), "small": train_byte_level_bpe(TEXTS, 280)}
    student = GPT2LMHeadModel(
        GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    )
    teachers = {"large": llama(320, 48).eval(), "small": llama(280, 32).eval()}

    fade_in = LinearSchedule(start=0, end=0.3, steps=max(1, steps // 2))
    spec = MultiTeacherSpec(
        teachers={
            "large": TeacherSpec.preset("dskd-cma", aligner="span", weight=0.7),
            "small": TeacherSpec(aligner=ExactMatch(), weight=fade_in),
        },
    )
    loss_fn = MultiTeacherLoss.from_models(spec, student, teachers, student_tokenizer, tokenizers)
    collate = loss_fn.collator(student_tokenizer, tokenizers)
    samples = [{"text": text} for text in TEXTS] * (2 * steps // 3 + 1)
    loader: DataLoader[Any] = DataLoader(samples, batch_size=4, collate_fn=collate)  # type: ignore[arg-type]
    optimizer = AdamW([{"params": student.parameters(), "lr": 3e-3}, *loss_fn.param_groups(lr=1e-2)])

    log = []
    for step, batch in zip(range(steps), loader, strict=False):
        out = loss_fn.run(student, teachers, batch, step=step)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        log.append({"loss": out.loss.item()} | {name: value.item() for name, value in out.terms.items()})
    return log


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--steps", type=int, default=24)
    steps = parser.parse_args().steps
    if steps < 1:
        parser.error(f"--steps: expected a positive number, got {steps}")
    for number, values in enumerate(main(steps)):
        print(f"{number:3}", *(f"{name} {value:.2f}" for name, value in values.items()))
