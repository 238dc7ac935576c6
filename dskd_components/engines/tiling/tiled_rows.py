"""`TiledRows`: the rows of a tile as spaces see them, with gradients in closed form where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dskd_components.components.space import ComparedRows

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.distance import Distance
    from dskd_components.engines.tiling.logit_block import LogitBlock
    from dskd_components.models.states import Side


@dataclass(frozen=True, eq=False, kw_only=True)
class TiledRows(ComparedRows):
    """Rows whose values come from blocks of logits, which keep their gradients.

    Args:
        student: the block of ``student_logits``.
        teacher: the block of ``teacher_logits``.
    """

    student: LogitBlock
    teacher: LogitBlock

    def divergence(self, distance: Distance | None, *, detach_teacher: bool = False) -> Tensor:
        """Return ``[N]``: the distance of each row at the spec's temperatures, in nats."""
        measure = self.measure
        with torch.no_grad():
            found = (distance or measure.distance).value_and_gradients(
                self.student.distribution(measure.temperature),
                self.teacher.distribution(measure.teacher_temperature),
                student_gradient=self.student.wanted,
                teacher_gradient=self.teacher.wanted and not detach_teacher,
            )
            values = found.values * measure.scale
        values.requires_grad_(found.student is not None or found.teacher is not None)
        self.student.contribute(values, found.student, measure.scale / measure.temperature)
        self.teacher.contribute(values, found.teacher, measure.scale / measure.teacher_temperature)
        return values

    def cross_entropy(self, side: Side, targets: Tensor) -> Tensor:
        """Return ``[N]``: the cross entropy of one side's logits at temperature 1, in nats; 0 without target."""
        return self._block(side).cross_entropy(targets)

    def predicted(self, side: Side) -> Tensor:
        """Return ``[N]``, int64: the most likely token of one side's logits."""
        return self._block(side).predicted()

    def _block(self, side: Side) -> LogitBlock:
        return self.student if side == "student" else self.teacher
