"""Losses that tell the save that they are of; as a program it saves them until it is killed (`test_concurrent.py`)."""

from __future__ import annotations

import sys
from itertools import cycle
from pathlib import Path
from typing import TypeVar

import torch

from dskd_components import DSKDLoss, DSKDSpec, MultiTeacherLoss, MultiTeacherSpec

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


if __name__ == "__main__":
    torch.set_num_threads(1)
    single, several = (Path(sys.argv[1], name) for name in ("single", "several"))
    losses = [(loss_of(rate), multi_teacher_loss_of(rate)) for rate in RATES]
    for number, (one, both) in enumerate(cycle(losses)):
        one.save(single)
        both.save(several)
        if not number:
            sys.stdout.write("begun\n")
            sys.stdout.flush()
