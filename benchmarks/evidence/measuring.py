"""How well a student predicts texts that it has not learned from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from dskd_components import DualTokenizerCollator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from benchmarks.evidence.data import Text
    from dskd_components import Head

BATCH = {"cpu": 16, "cuda": 64}
"""Texts at once, by the kind of device."""


@dataclass(frozen=True)
class Score:
    """What a model reached.

    Args:
        nats: loss of each text, summed over its tokens, in the order of the texts.
        hits: tokens of each text that are the most likely one.
        tokens: tokens of each text.
        bytes: bytes of each text.
    """

    nats: list[float]
    hits: list[int]
    tokens: list[int]
    bytes: list[int]

    @property
    def nats_per_byte(self) -> float:
        """Loss over the bytes of all texts; it compares models with any tokenizers."""
        return sum(self.nats) / sum(self.bytes)

    @property
    def accuracy(self) -> float:
        """Share of the model's own tokens that it predicts; it compares models with one tokenizer."""
        return sum(self.hits) / sum(self.tokens)

    def row(self) -> dict[str, float]:
        """Return both, for a file."""
        return {"nats_per_byte": self.nats_per_byte, "accuracy": self.accuracy}


class HeldOut:
    """Texts that a model is measured on, tokenized once.

    Args:
        texts: the texts.
        tokenizer: the model's.
        device: where models are that are measured.
    """

    def __init__(self, texts: Sequence[Text], tokenizer: PreTrainedTokenizerFast, device: torch.device) -> None:
        collate = DualTokenizerCollator(tokenizer, tokenizer, aligner=None, append_eos=False)
        # Texts of one length together, so that little is padding.
        order = sorted(range(len(texts)), key=lambda number: -texts[number].scored_bytes)
        size = BATCH[device.type]
        self._rows = [order[first : first + size] for first in range(0, len(order), size)]
        self._batches = [on_device(collate([texts[number].sample for number in rows]), device) for rows in self._rows]
        self._bytes = [text.scored_bytes for text in texts]

    @torch.no_grad()
    def score(self, model: PreTrainedModel, head: Head, *, autocast: bool) -> Score:
        """Measure a model. It is left in the mode it was in.

        Args:
            model: the model.
            head: its head, which reads in float32.
            autocast: whether the model runs in bfloat16 products.
        """
        training = model.training
        model.eval()
        nats, hits, tokens = ([0.0] * len(self._bytes), [0] * len(self._bytes), [0] * len(self._bytes))
        for rows, batch in zip(self._rows, self._batches, strict=True):
            states = states_of(model, batch, "student", autocast=autocast)
            targets = batch["student_labels"][:, 1:]
            scored = targets != -100
            logits = head.logits(states[:, :-1][scored].float())
            losses = torch.zeros_like(targets, dtype=torch.float32).masked_scatter(
                scored, F.cross_entropy(logits, targets[scored], reduction="none")
            )
            right = torch.zeros_like(scored).masked_scatter(scored, logits.argmax(-1) == targets[scored])
            sums = (losses.double().sum(1).tolist(), right.sum(1).tolist(), scored.sum(1).tolist())
            for number, *of_text in zip(rows, *sums, strict=True):
                nats[number], hits[number], tokens[number] = of_text
        model.train(training)
        return Score(nats=nats, hits=hits, tokens=tokens, bytes=self._bytes)


def on_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return a batch on a device.

    Args:
        batch: as a collator makes it.
        device: the device.
    """
    return {name: column.to(device) for name, column in batch.items()}


def states_of(model: Any, batch: dict[str, Tensor], side: str, *, autocast: bool) -> Tensor:
    """Return ``[B, T, d]``: what a model's head reads of one side of a batch.

    Args:
        model: the model.
        batch: as the collator makes it.
        side: ``"student"`` or ``"teacher"``.
        autocast: as in `HeldOut.score`.
    """
    device = batch[f"{side}_input_ids"].device
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        states: Tensor = model.base_model(
            input_ids=batch[f"{side}_input_ids"], attention_mask=batch[f"{side}_attention_mask"], use_cache=False
        ).last_hidden_state
    return states
