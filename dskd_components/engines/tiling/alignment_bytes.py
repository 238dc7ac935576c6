"""How much memory an alignment takes, so that tiles can make room for it."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from dskd_components.components.space import Space
    from dskd_components.meeting import Meeting


def alignment_bytes(meeting: Meeting) -> int:
    """Return how many bytes an alignment holds until the backward pass; an estimate for those that learn.

    Args:
        meeting: the states of both models, aligned.
    """
    alignment = meeting.alignment
    values = {alignment.student_values.data_ptr(), alignment.teacher_values.data_ptr()}
    given = {meeting.student.hidden_states.data_ptr(), meeting.teacher.hidden_states.data_ptr()}
    held = (getattr(alignment, field.name) for field in fields(alignment))
    made = [part for part in held if isinstance(part, Tensor) and part.data_ptr() not in given]
    # Beside its outcome an attention keeps what it was computed from, which is as large.
    return sum(part.nbytes * (1 if part.data_ptr() in values else 2) for part in made)


def between_bytes(meeting: Meeting) -> int:
    """Return an estimate of the bytes between hidden states and visitors, where they are kept: projected states.

    Args:
        meeting: the states of both models, aligned.
    """
    return sum(_projected_bytes(meeting, space) for space in meeting.spaces if space.projector)


def _projected_bytes(meeting: Meeting, space: Space) -> int:
    visitor = meeting.visitor(space)
    return visitor.targets.numel() * meeting.side(space.side).head.hidden_size * visitor.hidden_states.itemsize
