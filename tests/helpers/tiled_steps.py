"""What tests of the tiled engine share: a small batch in many tiles, its gradients, and an eye on what is made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dskd_components import DSKDLoss, DSKDSpec, Head
from tests.helpers.registered import build
from tests.helpers.strategies import Batch, make_batch

SMALL = {"name": "tiled", "memory_budget_mib": 1e-3}


def batch_and_loss(preset: str = "dskd", **overrides: Any) -> tuple[Batch, DSKDLoss]:
    spec = DSKDSpec.preset(preset, **({"engine": SMALL} | overrides))
    batch = make_batch(5, same_tokenizer=spec.aligner.same_tokenizer)
    hidden = batch.student.hidden_states.requires_grad_()
    head = Head(batch.student.head.weight.requires_grad_())
    return replace(batch, student=replace(batch.student, hidden_states=hidden, head=head)), build(spec, batch)


def learned(batch: Batch, loss_fn: DSKDLoss) -> list[Tensor]:
    return [batch.student.hidden_states, batch.student.head.weight, *loss_fn.parameters()]


def gradients(loss: Tensor, batch: Batch, loss_fn: DSKDLoss, **options: Any) -> list[Tensor]:
    return list(torch.autograd.grad(loss, learned(batch, loss_fn), allow_unused=True, **options))


class Watch(TorchDispatchMode):
    """Notes the size of what is made in float32 over a vocabulary, and the rows that products with a head have."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.largest = 0
        self.rows = 0
        self.joint_widths: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, Tensor) and self.vocabulary in tensor.shape and tensor.dtype == torch.float32:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
                if func is torch.ops.aten.mm.out and tensor.shape[1] == self.vocabulary:
                    self.rows += tensor.shape[0]
                elif func is torch.ops.aten.mm.out:
                    self.joint_widths.append(tensor.shape[1])
        return made
