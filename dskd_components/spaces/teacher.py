"""The teacher's space: projected student states under the teacher's head."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dskd_components.components.fields import AnyDistance
from dskd_components.components.space import ComparedRows, Direction, Space, SpaceResult
from dskd_components.components.terms import Denominator, TokenTerm
from dskd_components.models.states import Side


class TeacherSpace(Space):
    """The student's states are projected into the teacher's space and read by the teacher's head.

    One term, ``s2t_kd``: it pulls the student, through the projection, towards what the teacher predicts.

    Examples:
        >>> TeacherSpace(distance="kl").name
        'teacher'
    """

    side: ClassVar[Side] = "teacher"
    projector: ClassVar[Direction | None] = "s2t"
    terms: ClassVar[tuple[str, ...]] = ("s2t_kd",)
    reads_logits: ClassVar[bool] = False
    distance_terms: ClassVar[tuple[str, ...]] = ("s2t_kd",)
    source: ClassVar[str] = "Zhang et al. 2024 (DSKD), arXiv 2406.17328, equation 6; v2 arXiv 2504.11426"

    name: Literal["teacher"] = "teacher"
    distance: AnyDistance | None = None
    """Distance of ``s2t_kd``; None: the spec's (v2). The presets of v1 have forward KL here, whatever the spec's."""
    denominator: Denominator = "scored"
    """What the mean of ``s2t_kd`` divides by: the scored student tokens, or the teacher's tokens that it runs over."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of ``s2t_kd``."""

    def compare(self, rows: ComparedRows) -> SpaceResult:
        """Return ``s2t_kd``."""
        values = rows.divergence(self.distance)
        term = TokenTerm(values=values, denominator=self.denominator, weight=self.weight)
        return SpaceResult(terms={"s2t_kd": term})
