"""`AlignedBatch`: one batch, aligned, with the hidden states of either model brought to where the other's are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dskd_components.components.space import SharedTokens
from dskd_components.models.states import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dskd_components.components.alignment import Alignment
    from dskd_components.components.projector import Affine, Projection, ProjectorHeads
    from dskd_components.components.space import Direction, Measure, Space
    from dskd_components.engines.reduction import LossWeights
    from dskd_components.models.head import Head
    from dskd_components.models.states import LMStates, Side


class ProjectedStates(NamedTuple):
    """The other model's states at the covered positions of a side, and the head that reads them.

    Args:
        states: ``[N, d]``, part of the graph.
        head: the head; detached where it reads projected states.
    """

    states: Tensor
    head: Head


class AffineInput(NamedTuple):
    """The other model's states before an affine projection.

    Args:
        states: ``[N, d]``, aligned.
        weights: ``[N, 1]``: the sum of the alignment's weights, by which a bias is multiplied.
        affine: the projection.
    """

    states: Tensor
    weights: Tensor
    affine: Affine

    @property
    def made_bytes(self) -> int:
        """Memory of a projection's matrix that was made for this batch, rather than being a parameter."""
        matrix = self.affine.weight
        return 0 if isinstance(matrix, nn.Parameter) else matrix.nbytes


@dataclass(frozen=True, eq=False, kw_only=True)
class AlignedBatch:
    """Both models' states of one batch, their alignment, and the projections between them.

    It has no logits: these are the engine's matter.

    Args:
        spaces: where distributions are compared.
        measure: how they are compared.
        weights: what the terms are multiplied with in the loss.
        student: the student's states.
        teacher: the teacher's states, detached.
        alignment: which positions belong together.
        projections: by direction, ``"t2s"`` and ``"s2t"``.
        heads: by direction, the heads at both ends of a projection.
        teacher_to_student_ids: ``[Vt]``, the student's id of each teacher token or -1; None: one vocabulary.
        teacher_name: which of several teachers it is, for messages.
    """

    spaces: tuple[Space, ...]
    measure: Measure
    weights: LossWeights
    student: LMStates
    teacher: LMStates
    alignment: Alignment
    projections: Mapping[str, Projection]
    heads: Mapping[Direction, ProjectorHeads]
    teacher_to_student_ids: Tensor | None
    teacher_name: str | None = None

    def side(self, side: Side) -> LMStates:
        """Return the states of one model."""
        return self.student if side == "student" else self.teacher

    def source(self, space: Space) -> LMStates:
        """Return the states of the model whose states come to a space."""
        return self.teacher if space.side == "student" else self.student

    def covered(self, side: Side) -> Tensor:
        """Return ``[B, T]``, bool: the scored positions of a side that something on the other side belongs to."""
        return self.alignment.student_covered if side == "student" else self.alignment.teacher_covered

    @cached_property
    def shared_tokens(self) -> SharedTokens:
        """The tokens that both heads read, one to one, for the spaces that ask for them."""
        heads = self.heads["t2s"]
        if heads.source_ids is None or heads.target_ids is None:
            size = min(heads.source.vocabulary_size, heads.target.vocabulary_size)
            ids = torch.arange(size, device=heads.source.weight.device)
            return SharedTokens(student_ids=ids, teacher_ids=ids)
        return SharedTokens.one_to_one(heads.target_ids, heads.source_ids)

    @cached_property
    def common_ids(self) -> Tensor | None:
        """``[K]``, int64: the ids that both vocabularies have, where each is one but for tokens that only one side has.

        Spaces of one vocabulary compare these alone. None: the vocabularies are the same, or two.
        """
        ids = self.teacher_to_student_ids
        if ids is None or not any(space.one_vocabulary for space in self.spaces):
            return None
        ids = ids[: self.teacher.head.vocabulary_size]
        own = torch.arange(len(ids), device=ids.device)
        shared = (ids == own) & (own < self.student.head.vocabulary_size)
        is_one = bool(((ids < 0) | (ids == own)).all())
        everything = bool(shared.all()) and len(ids) == self.student.head.vocabulary_size
        return own[shared] if is_one and not everything else None

    def projected(self, space: Space, *, recompute: bool = False, positions: Tensor | None = None) -> ProjectedStates:
        """Return the other model's states, projected and aligned, and the head that reads them.

        A projected state is read by the head of the space that it has come to. The student's head is a constant for
        it: what it learns, it learns from the student's own states.

        Args:
            space: where they come to.
            recompute: keep nothing of what lies between, and compute it again for the gradient, if `repeats`.
            positions: ``[N]``, int64: the covered positions among all ``B * T`` of the space's side, in the order that
                is wanted. None: their own.
        """
        if recompute and self.repeats(space):
            states = checkpoint(self._projected_states, space, positions, use_reentrant=False)
        else:
            states = self._projected_states(space, positions)
        if space.projector is None:
            return ProjectedStates(states, self.source(space).head)
        return ProjectedStates(states, self.heads[space.projector].target.detach())

    def _projected_states(self, space: Space, positions: Tensor | None) -> Tensor:
        rows = self._source_rows(space)
        if space.projector is not None:
            rows = self.projections[space.projector](rows, self.heads[space.projector])
        return self._aligned(rows, space, positions)

    def repeats(self, space: Space) -> bool:
        """Return whether the states that come to a space may be computed twice, or without calling the projection."""
        return space.projector is None or self.projections[space.projector].is_as_written()

    def affine_input(self, space: Space, *, positions: Tensor | None = None) -> AffineInput | None:
        """Return what `projected` would project, aligned, if the projection is affine; None if it may not be.

        Alignment and projection can change places then, but for the bias, which comes with each row's weight.

        Args:
            space: where they come to.
            positions: as in `projected`.
        """
        if space.projector is None or not self.repeats(space):
            return None
        affine = self.projections[space.projector].affine(self.heads[space.projector])
        if affine is None:
            return None
        rows = self._source_rows(space)
        weights = self._aligned(rows.new_ones(len(rows), 1), space, positions)
        return AffineInput(self._aligned(rows, space, positions), weights, affine)

    def teacher_argmax(self, predicted: Tensor) -> Tensor:
        """Return ``[B, Ts]``: the teacher's most likely token for each covered student position.

        Args:
            predicted: ``[B, Tt]``, int64: the teacher's most likely token at `argmax_positions`, -1 elsewhere.

        Returns:
            Student ids, -100 where the student has no such token.
        """
        mapping = self.teacher_to_student_ids
        ids = predicted if mapping is None else mapping[predicted.clamp_min(0)]
        known = (predicted >= 0) & (ids >= 0) & (ids < self.student.head.vocabulary_size)
        ids = ids.where(known, IGNORE_INDEX)
        return ids.gather(1, self._teacher_positions.clamp_min(0)).where(self.covered("student"), IGNORE_INDEX)

    @cached_property
    def argmax_positions(self) -> Tensor:
        """``[B, Tt]``, bool: the teacher positions whose prediction `teacher_argmax` looks at."""
        reached = self._teacher_positions
        times = torch.zeros_like(self.teacher.targets).scatter_add(1, reached.clamp_min(0), (reached >= 0).long())
        return (times > 0) & self.teacher.scored

    @cached_property
    def _teacher_positions(self) -> Tensor:
        return self.alignment.teacher_index().where(self.covered("student"), -1)

    def _source_rows(self, space: Space) -> Tensor:
        """Return ``[M, d]``: what comes to a space from the other model's scored positions, before projection.

        Only scored rows are touched: the others may hold NaN, which a weight of zero would not stop.
        """
        source = self.source(space)
        values = source.hidden_states
        if space.projector is not None:
            alignment = self.alignment
            values = alignment.teacher_values if space.side == "student" else alignment.student_values
        return _rows_at(values, source.scored)

    def _aligned(self, rows: Tensor, space: Space, positions: Tensor | None) -> Tensor:
        """Bring rows of the source's scored positions to the covered positions of a space's side."""
        source = self.source(space)
        bring = self.alignment.to_student if space.side == "student" else self.alignment.to_teacher
        brought = bring(_placed(rows, source.scored))
        return _rows_at(brought, self.covered(space.side)) if positions is None else brought.flatten(0, 1)[positions]


def _rows_at(tensor: Tensor, mask: Tensor) -> Tensor:
    """Return ``[N, d]``: what stands where ``[B, T]`` is true; no copy where it is true everywhere."""
    return tensor.flatten(0, 1) if mask.all() else tensor[mask]


def _placed(rows: Tensor, mask: Tensor) -> Tensor:
    """Return ``[B, T, d]``: the rows where ``[B, T]`` is true, zeros elsewhere; no copy where it is true everywhere."""
    if mask.all():
        return rows.reshape(*mask.shape, rows.shape[-1])
    placed = rows.new_zeros(*mask.shape, rows.shape[-1])
    placed[mask] = rows
    return placed
