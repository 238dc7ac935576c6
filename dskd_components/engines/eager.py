"""The engine that computes everything at once, as the method is written down: the oracle of the other."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch

from dskd_components.components.group_space import GroupRows, GroupSpace
from dskd_components.components.space import ComparedRows, token_cross_entropy
from dskd_components.components.terms import TokenTerm
from dskd_components.engines._tiling.cut_heads import with_whole_heads
from dskd_components.engines.built_spaces import BuiltSpace
from dskd_components.engines.engine import Engine, Measurement
from dskd_components.engines.group_sums import (
    SIDES,
    GroupSums,
    checked_values,
    compared_groups,
    positions_of,
    temperature_of,
)
from dskd_components.engines.reduction import weighted_sum, with_zero_gradients
from dskd_components.models.batch import naming_teacher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from dskd_components.components.group_space import ComparedGroups
    from dskd_components.components.space import Space
    from dskd_components.components.terms import Tally
    from dskd_components.engines.aligned_batch import AlignedBatch
    from dskd_components.engines.reduction import Reduction
    from dskd_components.engines.workspace import Workspace
    from dskd_components.models.states import Side


class Eager(Engine):
    """All logits at once, gradients by autograd: plain to read and to step through, and it takes the memory.

    Besides checking the tiled engine, it is the one whose loss can be differentiated twice.

    Examples:
        >>> from dskd_components import DSKDSpec
        >>> DSKDSpec(engine="eager").engine
        Eager(name='eager')
    """

    name: Literal["eager"] = "eager"

    def measure(
        self,
        batches: Sequence[AlignedBatch],
        reduction: Reduction,
        workspace: Workspace,  # noqa: ARG002
    ) -> list[Measurement]:
        """Return loss and terms of a batch, for each teacher, as if it were the only one."""
        found = []
        for batch in with_whole_heads(batches):
            with naming_teacher(batch.teacher_name):
                found.append(self._measure(batch, reduction))
        return found

    def _measure(self, batch: AlignedBatch, reduction: Reduction) -> Measurement:
        logits = AllLogits(batch)
        student, weights, scored = batch.student, batch.weights, batch.positions.scored["student"]
        terms: dict[str, TokenTerm] = {}
        if weights.cross_entropy is not None:
            terms["ce"] = TokenTerm(values=token_cross_entropy(logits.student, scored.rows_of(student.outcomes)))
        metrics: dict[str, Tally] = {}
        for space in batch.spaces:
            compared = logits.groups(space) if isinstance(space, GroupSpace) else logits.rows(space)
            found = BuiltSpace(batch, space, student.hidden_states.dtype).found(compared)
            terms |= found.terms
            metrics |= found.metrics
        values, counts = reduction.values(terms)
        in_loss = {name: weights.in_loss(name, term.weight) for name, term in terms.items()}
        if weights.cross_entropy is not None:
            in_loss["ce"] = weights.cross_entropy
        loss = weighted_sum(values, in_loss)
        if 0 in in_loss.values():
            loss = student.hidden_states.new_zeros(()) if loss is None else loss
            loss = with_zero_gradients(loss, batch.learning())
        if loss is None:  # no space, and the cross entropy is another call's
            loss = student.hidden_states.new_zeros(())
        return Measurement(loss=loss, values=values, counts=counts, metrics=metrics)


class AllLogits:
    """The logits of all scored positions of a batch, made once for all spaces.

    Args:
        batch: the states of both models.
    """

    def __init__(self, batch: AlignedBatch) -> None:
        self._batch = batch

    @cached_property
    def student(self) -> Tensor:
        """``[N, Vs]``: the student's own logits at its scored positions."""
        student, scored = self._batch.student, self._batch.positions.scored["student"]
        return student.head.logits(scored.rows_of(student.hidden_states))

    @cached_property
    def teacher(self) -> Tensor:
        """``[M, Vt]``: the teacher's own logits at its scored positions, without graph."""
        teacher, scored = self._batch.teacher, self._batch.positions.scored["teacher"]
        with torch.no_grad():
            return teacher.head.logits(scored.rows_of(teacher.hidden_states))

    @cached_property
    def teacher_argmax(self) -> Tensor:
        """``[B, Ts]``: the teacher's most likely token at each covered student position, as a student id or -100."""
        predicted, scored = torch.full_like(self._batch.teacher.targets, -1), self._batch.positions.scored["teacher"]
        predicted.flatten().index_copy_(0, scored.indices, self.teacher.argmax(-1))
        return self._batch.teacher_argmax(predicted)

    def rows(self, space: Space) -> ComparedRows:
        """Return what a space compares: the covered positions of its side, with logits from both models."""
        batch, covered, own = self._batch, self._batch.positions.covered[space.side], self._own(space.side)
        states, head = batch.projected(space)
        projected = head.logits(states)
        rows = ComparedRows(
            student_logits=own if space.side == "student" else projected,
            teacher_logits=projected if space.side == "student" else own,
            targets=covered.rows_of(batch.side(space.side).outcomes),
            teacher_argmax=covered.rows_of(self.teacher_argmax) if space.needs_teacher_argmax else None,
            measure=batch.measure,
            shared_tokens=batch.shared_tokens if space.needs_shared_tokens else None,
            columns={name: covered.rows_of(column) for name, column in batch.columns_for(space, space.side).items()},
            teacher_to_student=batch.teacher_to_student if space.needs_vocabulary_map else None,
        )
        common = batch.common_ids if space.one_vocabulary else None
        return rows if common is None else rows.restricted(common)

    def groups(self, space: GroupSpace) -> ComparedGroups:
        """Return what a space combines: the sums of what it makes of each side's rows."""
        batch, sums = self._batch, {}
        for side in SIDES:
            at = positions_of(space, side)
            covered = batch.positions.covered[at]
            if at == side:
                logits = self._own(side)
            else:
                states, head = batch.projected(space)
                logits = head.logits(states)
            rows = GroupRows(
                side=side,
                logits=logits,
                targets=covered.rows_of(batch.side(at).outcomes),
                temperature=temperature_of(batch.measure, side),
                columns={name: covered.rows_of(column) for name, column in batch.columns_for(space, at).items()},
            )
            values = checked_values(space, space.row_values(rows), len(covered))
            numbers = covered.rows_of(batch.group_numbers[at])
            sums[side] = GroupSums(batch.positions.groups, values[:0]).add(values, numbers).total
        return compared_groups(space, sums, batch.group_numbers, batch.measure)

    def _own(self, side: Side) -> Tensor:
        """Return ``[N, V]``: the logits of one side's own states at its covered positions."""
        covered, scored = self._batch.positions.covered[side], self._batch.positions.scored[side]
        own = self.student if side == "student" else self.teacher
        return own if len(covered) == len(scored) else own.index_select(0, covered.among(scored))
