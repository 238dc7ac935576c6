"""Laws about a space inside the loss."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch
from hypothesis import strategies as st

from dskd_components.loss.dskd_loss import DSKDLoss
from dskd_components.spec.dskd_spec import DSKDSpec
from dskd_components.testing.expectation import expect, expect_finite
from dskd_components.testing.law import law
from dskd_components.testing.strategies.batches import make_batch
from dskd_components.testing.strategies.logits import SEEDS

TRIES: Final = 10
"""How many batches are looked at before a gradient counts as missing: a filter may leave out all of one batch."""

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.space import Space
    from dskd_components.loss.output import DSKDOutput
    from dskd_components.testing.strategies.batches import Batch


@law("space", cases=lambda _: st.fixed_dictionaries({"seed": SEEDS}), at_most=5)
def the_student_learns_in_the_loss(space: Space, seed: int) -> None:
    """In a loss of this space alone, the student's hidden states have finite gradients, some of them not zero.

    With one tokenizer and the default distance.
    """
    for number in range(TRIES):
        batch = make_batch(seed + number, same_tokenizer=True, student_vocabulary=4)
        out, hidden_states = _loss(space, batch)
        (gradient,) = torch.autograd.grad(out.loss, hidden_states)
        expect_finite(gradient, "the gradient of the student's hidden states")
        if gradient.any():
            return
    expect(False, "the gradient of the student's hidden states: expected some, found zeros in several batches.")


def _loss(space: Space, batch: Batch) -> tuple[DSKDOutput, Tensor]:
    student, teacher = batch.student, batch.teacher
    # All of the loss comes from the space: the student's own cross entropy weighs nothing.
    spec = DSKDSpec(spaces=(space,), kd_rate=1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss_fn = DSKDLoss(
            spec,
            student_hidden_size=student.head.hidden_size,
            teacher_hidden_size=teacher.head.hidden_size,
            student_head=student.head,
            teacher_head=teacher.head,
        ).double()
    hidden_states = student.hidden_states.clone().requires_grad_()
    return replace(batch, student=replace(student, hidden_states=hidden_states)).loss(loss_fn), hidden_states
