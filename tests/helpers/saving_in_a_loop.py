"""Losses that tell the save that they are of, and a process that saves them until it is killed."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, TypeVar

import torch

from dskd_components import DSKDLoss, DSKDSpec, MultiTeacherLoss, MultiTeacherSpec

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event
    from pathlib import Path

RATES = (0.25, 0.75)
Loss = TypeVar("Loss", DSKDLoss, MultiTeacherLoss)


def loss_of(rate: float) -> DSKDLoss:
    """A loss whose tensors tell the spec that they belong to."""
    return filled(DSKDLoss(DSKDSpec(kd_rate=rate), student_hidden_size=2, teacher_hidden_size=3), rate)


def multi_teacher_loss_of(value: float) -> MultiTeacherLoss:
    """Losses of two teachers, of one spec."""
    spec = MultiTeacherSpec(teachers={"large": {}, "small": {}})
    pairs = {name: DSKDLoss(spec.pair(name), student_hidden_size=2, teacher_hidden_size=3) for name in spec.teachers}
    return filled(MultiTeacherLoss(spec, pairs), value)


def filled(loss: Loss, value: float) -> Loss:
    """The loss, with all parameters of one value."""
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.fill_(value)
    return loss


def save_in_a_loop(folder: Path, begun: Event) -> None:
    """Save losses of both rates in turn, one loss and one of several teachers; tell when both are there."""
    losses = [(loss_of(rate), multi_teacher_loss_of(rate)) for rate in RATES]
    for number, (one, both) in enumerate(cycle(losses)):
        one.save(folder / "single")
        both.save(folder / "several")
        if not number:
            begun.set()
