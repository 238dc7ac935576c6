"""`Meeting`: one batch, aligned, and the logits of both models brought together row by row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dskd_components.contracts.space import ComparedRows, Direction, Space
from dskd_components.states import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dskd_components.contracts.alignment import Alignment
    from dskd_components.contracts.projector import Projection, ProjectorHeads
    from dskd_components.spec import DSKDSpec
    from dskd_components.states import LMStates, Side


@dataclass(frozen=True, eq=False, kw_only=True)
class Meeting:
    """Both models' states of one batch, their alignment, and the projections between them.

    Logits are made once and for scored positions only, and each model's own logits serve all spaces.

    Args:
        spec: the choices.
        student: the student's states.
        teacher: the teacher's states, detached.
        alignment: which positions belong together.
        projections: by direction, ``"t2s"`` and ``"s2t"``.
        heads: by direction, the heads at both ends of a projection.
        teacher_to_student_ids: ``[Vt]``, the student's id of each teacher token or -1; None: one vocabulary.
    """

    spec: DSKDSpec
    student: LMStates
    teacher: LMStates
    alignment: Alignment
    projections: Mapping[str, Projection]
    heads: Mapping[Direction, ProjectorHeads]
    teacher_to_student_ids: Tensor | None

    @cached_property
    def student_logits(self) -> Tensor:
        """``[N, Vs]``: the student's own logits at its scored positions."""
        return self.student.head.logits(self.student.hidden_states[self.student.scored])

    @cached_property
    def teacher_logits(self) -> Tensor:
        """``[M, Vt]``: the teacher's own logits at its scored positions, without graph."""
        with torch.no_grad():
            return self.teacher.head.logits(self.teacher.hidden_states[self.teacher.scored])

    @cached_property
    def teacher_choice(self) -> Tensor:
        """``[B, Ts]``: the teacher's most likely token at each covered student position, as a student id or -100."""
        choice = torch.full_like(self.teacher.targets, IGNORE_INDEX)
        choice[self.teacher.scored] = self._student_ids(self.teacher_logits.argmax(-1))
        return choice.gather(1, self.alignment.teacher_index().clamp_min(0))

    def rows(self, space: Space) -> ComparedRows:
        """Return what a space compares: the covered positions of its side, with logits from both models."""
        own, covered = self._own_side(space.side)
        own_logits = self.student_logits if space.side == "student" else self.teacher_logits
        reached = covered[own.scored]
        own_logits = own_logits if reached.all() else own_logits[reached]
        visiting_logits = self._visiting_logits(space, covered)
        student_logits, teacher_logits = (
            (own_logits, visiting_logits) if space.side == "student" else (visiting_logits, own_logits)
        )
        temperature = self.spec.temperature
        return ComparedRows(
            student_logits=student_logits,
            teacher_logits=teacher_logits,
            targets=own.targets[covered],
            teacher_choice=self.teacher_choice[covered] if space.needs_teacher_choice else None,
            distance=self.spec.distance,
            temperature=temperature,
            teacher_temperature=temperature * self.spec.teacher_temperature,
            scale=temperature**2 if self.spec.temperature_squared else 1.0,
        )

    def _own_side(self, side: Side) -> tuple[LMStates, Tensor]:
        if side == "student":
            return self.student, self.alignment.student_covered
        return self.teacher, self.alignment.teacher_covered

    def _visiting_logits(self, space: Space, covered: Tensor) -> Tensor:
        """Return ``[N, V]``: the other model's states, projected, aligned, and read by a head.

        A projected state is read by the head of the space that it has come to. The student's head is a constant for
        it: what it learns, it learns from the student's own states.
        """
        from_teacher = space.side == "student"
        visitor = self.teacher if from_teacher else self.student
        values, head = visitor.hidden_states, visitor.head
        if space.projector is not None:
            values = self.alignment.teacher_values if from_teacher else self.alignment.student_values
        # Only scored rows are touched: the others may hold NaN, which a weight of zero would not stop.
        rows = values[visitor.scored]
        if space.projector is not None:
            heads = self.heads[space.projector]
            rows = self.projections[space.projector](rows, heads)
            head = heads.target.detach()
        states = rows.new_zeros(*visitor.targets.shape, rows.shape[-1])
        states[visitor.scored] = rows
        aligned = self.alignment.to_student(states) if from_teacher else self.alignment.to_teacher(states)
        return head.logits(aligned[covered])

    def _student_ids(self, teacher_ids: Tensor) -> Tensor:
        """Return the student's ids of teacher tokens, -100 where the student has no such token."""
        mapping = self.teacher_to_student_ids
        ids = teacher_ids if mapping is None else mapping[teacher_ids]
        return ids.where((ids >= 0) & (ids < self.student.head.vocabulary_size), IGNORE_INDEX)
