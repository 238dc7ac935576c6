"""Tiny pairs of models with tokenizers that may be changed at will, for tests of what is seen before training."""

from __future__ import annotations

import copy
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from tokenizers.processors import TemplateProcessing

from dskd_components import DSKDLoss
from tests.helpers.models import TEXTS, byte_level_tokenizer, tiny_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from dskd_components.preflight import Finding, PreflightReport

CHATML = "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
OTHER = "{% for m in messages %}<<{{ m.role }}>> {{ m.content }} <<end>>{% endfor %}"


def tokenizer(size: int, *, bos: bool = False, template: str | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer with BOS, EOS and padding tokens; with `bos` it puts BOS before each text."""
    made = copy.deepcopy(byte_level_tokenizer(size))
    made.bos_token, made.eos_token = "<s>", "</s>"
    if bos:
        made.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made.chat_template = template
    return made


@cache
def _trained_teacher() -> PreTrainedModel:
    model = tiny_model("Llama", vocabulary=300).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    own = tokenizer(300)
    batch = own(list(TEXTS), return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for _ in range(40):
        optimizer.zero_grad()
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval().requires_grad_(False)


def trained_teacher() -> PreTrainedModel:
    """A teacher of 300 tokens that knows the texts."""
    return copy.deepcopy(_trained_teacher())


def sound_pair() -> dict[str, Any]:
    """A pair with which nothing is wrong, as arguments of `preflight`."""
    return {
        "student": tiny_model("Llama", hidden_size=24, vocabulary=280),
        "teacher": trained_teacher(),
        "student_tokenizer": tokenizer(280),
        "teacher_tokenizer": tokenizer(300),
    }


def look(**changes: Any) -> PreflightReport:
    """Look at the sound pair with something changed; nothing is measured unless asked for."""
    return DSKDLoss.preflight(**({"texts": TEXTS, "tokens_per_step": None} | sound_pair() | changes))


def finding(report: PreflightReport, component: str, severity: str) -> Finding:
    """The one finding of a component and a severity."""
    found = [each for each in report.findings if (each.component, each.severity) == (component, severity)]
    assert len(found) == 1, report.to_text()
    return found[0]
