"""How well each model predicts the sample texts: is its tokenizer its own, and can the teacher teach."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn import functional as F

from dskd_components.models.run_model import input_embedding
from dskd_components.preflight.report import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dskd_components.preflight.pair import Pair

LONGEST: Final = 256
"""Tokens that are read of a text."""


def check_predictions(pair: Pair) -> Iterator[Finding]:
    """Measure bits a byte of both models, which compare across tokenizers."""
    if not pair.has_both_tokenizers:
        return
    if any(max(tokenizer.get_vocab().values()) >= len(input_embedding(model)) for _, model, tokenizer in pair.models()):
        return  # found with the vocabularies; on a GPU an id without a row would end the process
    found = {}
    for side, model, tokenizer in pair.models():
        nats, tokens, size = _predicted(model, tokenizer, pair.texts)
        if not tokens:
            return
        found[side] = nats / math.log(2) / size
        if side == "teacher" and nats / tokens > math.log(len(tokenizer.get_vocab())):
            yield Finding(
                "warning",
                "teacher predictions",
                f"it predicts the texts worse than chance ({nats / tokens:.1f} nats a token)",
                "make sure that its weights are trained ones and that the tokenizer is its own",
            )
    text = f"student {found['student']:.2f}, teacher {found['teacher']:.2f} bits a byte of the texts"
    if found["teacher"] >= found["student"]:
        advice = "make sure that student and teacher are not mixed up, or try texts of the kind to be learned"
        yield Finding("warning", "predictions", f"{text}: the teacher is no better than the student", advice)
    else:
        yield Finding("ok", "predictions", text)


@torch.no_grad()
def _predicted(model: Any, tokenizer: Any, texts: Sequence[str]) -> tuple[float, int, int]:
    """Return the sum of negative log-probabilities, the number of predicted tokens, and the bytes of these."""
    nats, tokens, size = 0.0, 0, 0
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"][:, :LONGEST].to(next(model.parameters()).device)
        if ids.shape[1] < 2:
            continue
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        nats += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        tokens += ids.shape[1] - 1
        size += len(tokenizer.decode(ids[0, 1:], skip_special_tokens=True).encode())
    return nats, tokens, max(size, 1)
