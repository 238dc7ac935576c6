"""A batch whose student can learn, and the gradients of a loss to everything that does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components import DSKDOutput
    from tests.helpers.strategies import Batch


def with_leaves(batch: Batch) -> tuple[Batch, list[Tensor]]:
    """The batch with the student's hidden states and head as leaves of the graph."""
    hidden = batch.student.hidden_states.detach().clone().requires_grad_()
    weight = batch.student.head.weight.detach().clone().requires_grad_()
    student = replace(batch.student, hidden_states=hidden, head=replace(batch.student.head, weight=weight))
    return replace(batch, student=student), [hidden, weight]


def gradients(loss_fn: torch.nn.Module, out: DSKDOutput, leaves: list[Tensor]) -> list[Tensor]:
    return list(
        torch.autograd.grad(out.loss, [*leaves, *loss_fn.parameters()], allow_unused=True, materialize_grads=True)
    )
