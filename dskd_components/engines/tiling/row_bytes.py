"""How much memory the tensors of hidden size take that the loss itself makes, so that tiles can make room for them."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from dskd_components.contracts.space import Space
    from dskd_components.meeting import Meeting
    from dskd_components.states import LMStates


def row_bytes(meeting: Meeting, *, recomputed: bool) -> int:
    """Return an estimate, in bytes: the alignment's tensors, and the states that travel with their gradients.

    Args:
        meeting: the states of both models, aligned.
        recomputed: whether what lies between hidden states and aligned ones is not kept.
    """
    own = {meeting.student.hidden_states.data_ptr(), meeting.teacher.hidden_states.data_ptr()}
    held = (getattr(meeting.alignment, field.name) for field in fields(meeting.alignment))
    alignment = sum(part.nbytes for part in held if isinstance(part, Tensor) and part.data_ptr() not in own)
    # An attention's scores are kept besides its two outcomes.
    return 2 * alignment + sum(_travelling(meeting, space, recomputed) for space in meeting.spaces)


def _travelling(meeting: Meeting, space: Space, recomputed: bool) -> int:
    here, there = meeting.side(space.side), meeting.visitor(space)
    width = here.head.hidden_size if space.projector else there.head.hidden_size
    numbers = 2 * _positions(here) * width
    if not recomputed:
        numbers += _positions(there) * (there.head.hidden_size + width)
    return numbers * here.hidden_states.itemsize


def _positions(states: LMStates) -> int:
    return states.targets.numel()
