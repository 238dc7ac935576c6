"""How users spread models and loss over ranks with DeepSpeed."""

from __future__ import annotations

import logging
import math
import os
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from dskd_components.distributed.gathering import whole_of_partitions
from dskd_components.distributed.partitions import PartitionRows
from dskd_components.models.head_part import HeadPart
from dskd_components.models.head_recipe import HeadRecipe
from tests.helpers.distributed_step import Wrapped, gradients
from tests.helpers.engines_of_ranks import Engine

os.environ["DS_ACCELERATOR"] = "cpu"

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

MICRO_BATCHES = 2


def start_deepspeed() -> Any:
    """DeepSpeed, on the process group that is there."""
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Or it compiles something, to reduce in shared memory.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo", dist_init_required=False)
    return deepspeed


def engine_of(model: nn.Module, stage: int) -> Any:
    """The model in an engine that accumulates over two micro-batches."""
    engine, *_ = start_deepspeed().initialize(
        model=model,
        model_parameters=list(model.parameters()),
        config={
            "train_micro_batch_size_per_gpu": 2,
            "gradient_accumulation_steps": MICRO_BATCHES,
            # Small parameters would never be partitioned otherwise.
            "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
            "optimizer": {"type": "Adam", "params": {"lr": 1e-3, "torch_adam": True}},
        },
    )
    return engine


class Zero1(Engine):
    """The student in an engine, the loss outside."""

    stage = 1

    def wrap(self) -> None:
        self.engine = engine_of(self.step.student, self.stage)
        self.student = Wrapped(self.engine, self.step.student)

    def backward(self, loss: Tensor) -> None:
        # The engine takes the loss to be a mean of the micro-batch's own.
        self.engine.backward(loss * MICRO_BATCHES)
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()

    def gradients(self) -> dict[str, Tensor]:
        return self.partitioned_gradients(self.step.student, "student") | gradients(self.step.loss_fn, "loss")

    def partitioned_gradients(self, module: nn.Module, prefix: str) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_grad

        found = {f"{prefix}.{name}": safe_get_full_grad(parameter) for name, parameter in module.named_parameters()}
        return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


class Zero2(Zero1):
    """Gradients are partitioned, too."""

    stage = 2


class Zero3(Zero1):
    """And so are parameters: the student's, and the teacher's, which is never in an engine."""

    stage = 3

    def wrap(self) -> None:
        import deepspeed

        super().wrap()
        deepspeed.zero.Init(module=self.step.teacher)
        for parameter in self.step.teacher.parameters():
            parameter.requires_grad_(False)
        self.teacher = Wrapped(self.engine_of_teacher(), self.step.teacher)

    def engine_of_teacher(self) -> Any:
        import deepspeed

        engine, *_ = deepspeed.initialize(
            model=self.step.teacher,
            config={
                "train_micro_batch_size_per_gpu": 2,
                "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
            },
        )
        engine.eval()
        return engine


class Zero3BuiltAfter(Zero3):
    """The loss is built from models that are partitioned already."""

    def wrap(self) -> None:
        super().wrap()
        loss_fn = self.step.new_loss(self.student, self.teacher, seed=0)
        self.step, self.loss = replace(self.step, loss_fn=loss_fn), loss_fn


class Together(nn.Module):
    """Student and loss as one module, for an engine that takes one."""

    def __init__(self, student: nn.Module, loss_fn: nn.Module) -> None:
        super().__init__()
        self.student, self.loss_fn = student, loss_fn

    def forward(self, teacher: Any, batch: dict[str, Tensor], num_items: Tensor) -> Tensor:
        return self.loss_fn.run(self.student, teacher, batch, num_items_in_batch=num_items).loss


class Zero2Together(Zero1):
    """Student and loss in one engine."""

    stage = 2

    def wrap(self) -> None:
        self.engine = engine_of(Together(self.step.student, self.step.loss_fn), self.stage)

    def loss_of(self, batch: dict[str, Tensor], num_items: Tensor) -> Tensor:
        return self.engine(self.teacher, batch, num_items)

    def finish(self) -> None:
        pass

    def gradients(self) -> dict[str, Tensor]:
        return self.partitioned_gradients(self.step.student, "student") | self.partitioned_gradients(
            self.step.loss_fn, "loss"
        )


class Zero3Together(Zero2Together):
    """Likewise, with parameters in parts: refused."""

    stage = 3


def shapes_of(model: nn.Module) -> set[torch.Size]:
    """The shapes of a model's parameters, as they lie there."""
    return {parameter.shape for parameter in model.parameters()}


@contextmanager
def noting_what_is_gathered() -> Iterator[set[int]]:
    """The ids of the parameters that the library gathers."""
    noted: set[int] = set()

    def note(parameter: Any) -> Tensor:
        noted.add(parameter.ds_id)
        return whole_of_partitions(parameter)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dskd_components.distributed.gathering.whole_of_partitions", note)
        yield noted


def rows_of_partitions() -> dict[tuple[int, ...], Any]:
    """By shape of a weight, what a rank has of a head of it; None if it is not cut."""
    import deepspeed

    found: dict[tuple[int, ...], Any] = {}
    for shape in ((6, 4), (7, 4), (7, 5), (64, 3), (3, 4), (2, 8), (1, 6), (2, 1, 3)):
        module = nn.Module()
        module.weight = nn.Parameter(torch.arange(math.prod(shape), dtype=torch.float32).view(shape))
        deepspeed.zero.Init(module=module)
        partition = PartitionRows.of(module.weight)
        found[shape] = None
        if partition is None or len(shape) != 2:
            continue
        recipe = HeadRecipe(module.weight, None, scale=1.0, softcap=None, rows=None)
        head = HeadPart(recipe, partition.shards, None, partition)
        found[shape] = {
            "own": partition.own,
            "picked": head.rows(torch.tensor([shape[0] - 1, 0]))[0],
            "gathered": head.gathered().weight.detach().clone(),
            "sizes": (head.token_count, head.hidden_size, len(head.weight)),
        }
    return found
