"""How well a model predicts held-out text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from examples.two_tokenizers.batches import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from examples.two_tokenizers.batches import Batch, Side


@dataclass(frozen=True)
class HeldOut:
    """The held-out texts.

    Args:
        batches: the texts, tokenized for both models.
        utf8_bytes: their length; both models predict every one of these bytes, so losses per byte compare.
    """

    batches: Sequence[Batch]
    utf8_bytes: int


@dataclass(frozen=True)
class Score:
    """What a model reached on held-out text.

    Args:
        nats_per_token: mean loss over the model's own tokens; not comparable between tokenizers.
        nats_per_byte: the same total loss over the bytes of the text; comparable between tokenizers.
        accuracy: share of the model's own tokens that it predicts.
    """

    nats_per_token: float
    nats_per_byte: float
    accuracy: float


def model_inputs(batch: Batch, side: Side) -> dict[str, Tensor]:
    """Return one side's columns of a batch under the names that a Hugging Face model has for them."""
    return {name: batch[f"{side}_{name}"] for name in ("input_ids", "attention_mask", "labels")}


@torch.no_grad()
def measure(model: nn.Module, held_out: HeldOut, side: Side) -> Score:
    """Measure a model on all held-out texts. The model is left in the mode it was in.

    Args:
        model: a causal language model.
        held_out: the texts.
        side: by whose tokens.
    """
    training = model.training
    model.eval()
    loss, hits, tokens = 0.0, 0, 0
    for batch in held_out.batches:
        inputs: dict[str, Any] = model_inputs(batch, side)
        targets = inputs.pop("labels")[:, 1:]
        scored = targets != IGNORED
        logits = model(**inputs).logits[:, :-1][scored]
        loss += F.cross_entropy(logits, targets[scored], reduction="sum").item()
        hits += int((logits.argmax(-1) == targets[scored]).sum())
        tokens += int(scored.sum())
    model.train(training)
    return Score(nats_per_token=loss / tokens, nats_per_byte=loss / held_out.utf8_bytes, accuracy=hits / tokens)
