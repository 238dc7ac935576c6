"""A teacher with a tokenizer, samples for it, and stores of it in temporary folders."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dskd_components import DSKDLoss, DualTokenizerCollator, TeacherStore
from tests.helpers.models import TEXTS, byte_level_tokenizer, metaspace_tokenizer, tiny_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from dskd_components import DSKDSpec
    from dskd_components.store.shards import StoredSample

WORDS = tuple(word for text in TEXTS for word in text.split())


def samples(count: int = 12, seed: int = 0) -> list[dict[str, str]]:
    """Prompts with responses of uneven lengths, all different."""
    generator = np.random.default_rng(seed)
    made = []
    for number in range(count):
        prompt, response = (" ".join(generator.choice(WORDS, size=generator.integers(1, 9))) for _ in range(2))
        made.append({"prompt": f"{number} {prompt}", "response": f" {response}"})
    return made


@cache
def teacher() -> Any:
    """A Llama of width 80, which int8 stores with two scales; it is never changed."""
    return tiny_model("Llama", hidden_size=80, vocabulary=320).requires_grad_(False)


def student(size: int | None = None) -> Any:
    """A GPT-2 for the Metaspace tokenizer."""
    return tiny_model("GPT2", hidden_size=24, vocabulary=size or len(metaspace_tokenizer()))


def collator(**options: Any) -> DualTokenizerCollator:
    """From the Metaspace tokenizer to the teacher's."""
    return DualTokenizerCollator(metaspace_tokenizer(), byte_level_tokenizer(), **options)


def build(folder: Path, data: Sequence[Any] | None = None, **options: Any) -> TeacherStore:
    """A store of the teacher, exact unless told otherwise."""
    own: dict[str, Any] = {"dtype": "float32", "batch_size": 4} | options
    collate = own.pop("collate", None) or collator()
    return TeacherStore.build(
        folder, own.pop("teacher", teacher()), collate, samples() if data is None else data, **own
    )


def loss_of(spec: DSKDSpec, store_or_teacher: Any, *, learner: Any = None, own: Any = None) -> DSKDLoss:
    """The loss of a spec, with the same projectors each time."""
    torch.manual_seed(1)
    tokenizers = own or metaspace_tokenizer(), byte_level_tokenizer()
    return DSKDLoss.from_models(spec, learner or student(), store_or_teacher, *tokenizers)


def stepped(loss_fn: Any, learner: nn.Module, store_or_teacher: Any, batch: Mapping[str, Tensor]) -> list[Tensor]:
    """The loss of a batch, and all gradients that it gives."""
    parameters = [*learner.parameters(), *loss_fn.parameters()]
    for parameter in parameters:
        parameter.grad = None
    loss = loss_fn.run(learner, store_or_teacher, batch).loss
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in parameters if parameter.grad is not None)]


def contents(store: TeacherStore) -> dict[tuple[int, ...], StoredSample]:
    """All that can be read from a store, by tokens."""
    found: dict[tuple[int, ...], StoredSample] = {}
    for number in range(len(store)):
        sample = store.reader.sample(number)
        key = tuple(sample.input_ids.tolist())
        assert key not in found, "a sample is there twice"
        found[key] = sample
    return found


def same(ours: TeacherStore, theirs: TeacherStore, *, within: float = 0.0) -> bool:
    """Whether the same is read from two stores: the same numbers, or within some share of the largest."""
    first, second = contents(ours), contents(theirs)
    if first.keys() != second.keys():
        return False
    for key, sample in first.items():
        other = second[key]
        one, two = sample.states.decode().float(), other.states.decode().float()
        if not np.array_equal(sample.stored, other.stored) or one.shape != two.shape:
            return False
        if (one - two).abs().max() > within * two.abs().max():
            return False
    return True
