"""What is compared: each contestant makes a step, forward and backward, from the same states."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from benchmarks.loss_step.textbook import textbook_step
from dskd_components.engines._tiling.head_products import HeadGradient, HeadProducts

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.loss_step.case import Case
    from dskd_components import DSKDLoss, LMStates

Step = "Callable[[], torch.Tensor]"

DIRECT = ("js", "vanilla-kd", "shared-tokens")
"""Methods that compare the models' own logits."""


def bare_products(case: Case, student: LMStates, teacher: LMStates) -> Callable[[], torch.Tensor]:
    """The matrix products that the method cannot do without, at the scored positions, into memory that is there.

    Of size student width x student vocabulary: logits of the student and of the projected teacher, the gradients to
    both, the head's gradient. Of the teacher's sizes: logits of the teacher and of the projected student, one gradient.
    Methods without projection have neither projected states nor their gradients.
    """
    width = student.hidden_states.shape[-1]
    student_weight, teacher_weight = (side.head.weight.detach().float() for side in (student, teacher))
    ours = torch.randn(int(student.scored.sum()), width)
    theirs = torch.randn(int(teacher.scored.sum()), teacher.hidden_states.shape[-1])
    logits = torch.empty(len(ours), len(student_weight))
    teacher_logits = torch.empty(len(theirs), len(teacher_weight))
    head_gradient, gradient = torch.empty_like(student_weight), torch.empty_like(ours)
    teacher_gradient = torch.empty_like(theirs)
    visits = 0 if case.method in DIRECT else 1

    def step() -> torch.Tensor:
        for _ in range(1 + visits):
            torch.mm(ours, student_weight.T, out=logits)
        for _ in range(1 + visits):
            torch.mm(logits, student_weight, out=gradient)
        torch.mm(logits.T, ours, out=head_gradient)
        for _ in range(1 + visits):
            torch.mm(theirs, teacher_weight.T, out=teacher_logits)
        if visits:
            torch.mm(teacher_logits, teacher_weight, out=teacher_gradient)
        return logits[0, 0]

    return step


def fastest_products(case: Case, student: LMStates, teacher: LMStates) -> Callable[[], torch.Tensor]:
    """The same products by the fastest kernels that the library knows of, measured when they are first made."""
    sides = [replace(side.head, weight=side.head.weight.detach().float()) for side in (student, teacher)]
    counts = (int(student.scored.sum()), int(teacher.scored.sum()))
    rows = [torch.randn(count, head.hidden_size) for count, head in zip(counts, sides, strict=True)]
    logits = [torch.empty(count, head.vocabulary_size) for count, head in zip(counts, sides, strict=True)]
    ours, theirs = (HeadProducts(head, torch.float32, 2**30, "fastest") for head in sides)
    learning = replace(sides[0], weight=sides[0].weight.requires_grad_())
    visits = 0 if case.method in DIRECT else 1

    def step() -> torch.Tensor:
        for _ in range(1 + visits):
            ours.logits(rows[0], logits[0])
            ours.states_gradient(logits[0])
            theirs.logits(rows[1], logits[1])
        HeadGradient(learning, torch.float32).add(logits[0], rows[0], "fastest")
        if visits:
            theirs.states_gradient(logits[1])
        return logits[0][0, 0]

    return step


def library(
    case: Case, engine: str, student: LMStates, teacher: LMStates, *, loss: DSKDLoss | None = None
) -> Callable[[], torch.Tensor]:
    """A step of this library."""
    loss_fn = loss or case.loss(engine)

    def step() -> torch.Tensor:
        forget_gradients(student, loss_fn)
        out = loss_fn(student, teacher)
        out.loss.backward()
        return out.loss.detach()

    return step


def textbook(case: Case, student: LMStates, teacher: LMStates) -> Callable[[], torch.Tensor]:
    """A step of the method written down plainly: all logits of all positions, masked at the end."""
    loss_fn = case.loss("eager")

    def step() -> torch.Tensor:
        forget_gradients(student, loss_fn)
        return textbook_step(case.method, loss_fn, student, teacher)

    return step


def liger(student: LMStates, teacher: LMStates, *, compiled: bool) -> Callable[[], torch.Tensor]:
    """A step of Liger's fused linear JSD, where it is installed.

    Raises:
        ImportError: it is not.
    """
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss_fn = LigerFusedLinearJSDLoss(compiled=compiled)

    def step() -> torch.Tensor:
        forget_gradients(student, None)
        loss = loss_fn(
            student.hidden_states.flatten(0, 1),
            student.head.weight,
            teacher.hidden_states.flatten(0, 1),
            teacher.head.weight,
            student.targets.flatten(),
        )
        loss.backward()
        return loss.detach()

    return step


def forget_gradients(student: LMStates, loss_fn: DSKDLoss | None) -> None:
    """Leave every step the same memory to fill."""
    student.hidden_states.grad = student.head.weight.grad = None
    if loss_fn is not None:
        loss_fn.zero_grad(set_to_none=True)
