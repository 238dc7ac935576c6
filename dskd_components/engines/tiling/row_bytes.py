"""How much memory the tensors of hidden size take that the loss itself makes, so that tiles can make room for them."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from dskd_components.contracts.space import Space
    from dskd_components.meeting import Meeting
    from dskd_components.states import LMStates


def row_bytes(meeting: Meeting) -> int:
    """Return an estimate, in bytes: the alignment's tensors, and the states that travel with their gradients.

    Args:
        meeting: the states of both models, aligned.
    """
    own = {meeting.student.hidden_states.data_ptr(), meeting.teacher.hidden_states.data_ptr()}
    held = (getattr(meeting.alignment, field.name) for field in fields(meeting.alignment))
    alignment = sum(part.nbytes for part in held if isinstance(part, Tensor) and part.data_ptr() not in own)
    # An attention's scores are kept besides its two outcomes.
    return 2 * alignment + sum(_travelling(meeting, space) for space in meeting.spaces)


def _travelling(meeting: Meeting, space: Space) -> int:
    here, there = meeting.side(space.side), meeting.side("teacher" if space.side == "student" else "student")
    width = here.head.hidden_size if space.projector else there.head.hidden_size
    # Projected, then brought to the other side's positions, where there is a gradient as well.
    widest = _positions(there) + 2 * _positions(here)
    return (widest * width + _positions(there) * there.head.hidden_size) * here.hidden_states.itemsize


def _positions(states: LMStates) -> int:
    return states.targets.numel()
