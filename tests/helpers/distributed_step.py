"""One optimizer step's loss and gradients on tiny models of Hugging Face, by one process or by ranks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dskd_components import DSKDLoss, DSKDSpec
from dskd_components.distributed import sum_over_ranks
from tests.helpers.column_readers import Nearby
from tests.helpers.models import byte_level_tokenizer, encode, metaspace_tokenizer, tiny_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# The published choices that look at the whole batch have split-invariant values here.
SPLIT_INVARIANT_V2 = [
    {"name": "student", "targets": "teacher_argmax", "filter": "agreement"},
    {"name": "teacher"},
]
SPECS = {
    "columns": DSKDSpec(aligner=Nearby(slope=0.5)),
    "narrowed": DSKDSpec.preset("dskd-cma", aligner={"name": "cma", "std": "sample"}),
    "dskd": DSKDSpec.preset("dskd", temperature=2.0),
    "dskd-cma": DSKDSpec.preset("dskd-cma", aligner={"name": "cma", "std": "sample"}),
    "dskd-v2": DSKDSpec.preset("dskd-v2", spaces=SPLIT_INVARIANT_V2),
}

NARROWED: dict[str, dict[str, Any]] = {
    "narrowed": {"student_tokens": range(0, 60, 2), "teacher_tokens": range(50), "other_tokens": "one_outcome"}
}
"""What heads are narrowed to, where they are."""

# The micro-batches of each rank, as rows of the batch: uneven in size and in scored tokens.
PARTS = {
    2: [[[0, 1, 2], [3]], [[4], [5, 6, 7]]],
    4: [[[0], [1]], [[2], [3]], [[4], [5]], [[6], [7]]],
}
SILENT = slice(4, 8)
"""Rows that are not scored in the silent cases: all rows of the second half of the ranks."""


@dataclass(frozen=True)
class Step:
    """Both models, the loss, and the batch of all ranks."""

    spec: DSKDSpec
    tokenizers: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]
    student: PreTrainedModel
    teacher: PreTrainedModel
    batch: dict[str, Tensor]
    loss_fn: DSKDLoss
    narrowing: dict[str, Any]

    def new_loss(self, student: Any, teacher: Any, *, seed: int) -> DSKDLoss:
        torch.manual_seed(seed)
        return DSKDLoss.from_models(self.spec, student, teacher, *self.tokenizers, **self.narrowing)

    def rows(self, rows: Sequence[int]) -> dict[str, Tensor]:
        return {name: column[list(rows)] for name, column in self.batch.items()}

    def scored(self, rows: Sequence[int]) -> Tensor:
        name = "labels" if "labels" in self.batch else "student_labels"
        return (self.rows(rows)[name][:, 1:] != -100).sum()


def make_step(preset: str, *, tied: bool, silent: bool = False, engine: str = "tiled", seed: int = 0) -> Step:
    """The same models and batch each time; the loss's own parameters by the seed."""
    options = {"name": "tiled", "vocabulary_parallel": "always"} if engine == "cut" else engine
    spec = SPECS[preset].model_copy(update={"engine": DSKDSpec(engine=options).engine})
    teacher_tokenizer = byte_level_tokenizer()
    student_tokenizer = teacher_tokenizer if spec.aligner.same_tokenizer else metaspace_tokenizer()
    # Three rows too many: the vocabulary does not divide by the number of ranks.
    student = tiny_model(
        "Llama", hidden_size=24, vocabulary=len(student_tokenizer) + 3, tie_word_embeddings=tied
    ).train()
    teacher = tiny_model("Llama", hidden_size=32, vocabulary=len(teacher_tokenizer) + 20)
    torch.manual_seed(seed)
    tokenizers = (student_tokenizer, teacher_tokenizer)
    narrowing = NARROWED.get(preset, {})
    loss_fn = DSKDLoss.from_models(spec, student, teacher, *tokenizers, **narrowing)
    if spec.aligner.same_tokenizer:
        columns = encode(teacher_tokenizer, "")
    else:
        columns = encode(student_tokenizer, "student_") | encode(teacher_tokenizer, "teacher_")
    batch = {name: column.repeat(3, 1)[:8] for name, column in columns.items()}
    for name in batch:
        if name.endswith("labels"):
            for row, labels in enumerate(batch[name]):
                labels[: 3 * row] = -100
            if silent:
                batch[name][SILENT] = -100
    for side, width in (("student", 3), ("teacher", 5)) if spec.reads_byte_positions else ():
        ids = batch[f"{side}_input_ids"]
        batch[f"{side}_byte_starts"] = width * torch.arange(ids.shape[1]) + ids % width
    return Step(spec, tokenizers, student, teacher, batch, loss_fn, narrowing)


@cache
def of_one_process(preset: str, *, tied: bool, silent: bool = False, engine: str = "tiled") -> dict[str, Tensor]:
    """Loss and gradients of the whole batch, without any engine."""
    step = make_step(preset, tied=tied, silent=silent, engine=engine)
    out = step.loss_fn.run(step.student, step.teacher, step.batch)
    out.loss.backward()
    return {"loss": out.loss.detach()} | gradients(step.student, "student") | gradients(step.loss_fn, "loss")


def gradients(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Whole gradients by name; a parameter without one is left out."""
    found = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
    return {
        f"{prefix}.{name.replace('module.', '').replace('_checkpoint_wrapped_', '')}": gradient.full_tensor()
        if hasattr(gradient, "full_tensor")
        else gradient.clone()
        for name, gradient in found.items()
    }


class Wrapped:
    """A wrapped model: its forward is the wrapper's, all else the model's own."""

    def __init__(self, wrapper: Any, model: PreTrainedModel) -> None:
        self.wrapper, self.model = wrapper, model
        self.forward = model.forward

    def __call__(self, **inputs: Any) -> Any:
        return self.wrapper(**inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def global_scored(step: Step, parts: Sequence[Sequence[int]]) -> Tensor:
    """The scored tokens of all micro-batches and ranks."""
    return sum_over_ranks(sum((step.scored(rows) for rows in parts), start=torch.tensor(0)))


def total_loss(losses: Sequence[Tensor]) -> Tensor:
    """The loss of all ranks from the losses of this one's micro-batches."""
    return sum_over_ranks(torch.stack([loss.detach() for loss in losses]).sum())
