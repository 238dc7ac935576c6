"""Components that read columns of a batch: an aligner, and spaces that sum over groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from dskd_components import ComparedGroups, GroupRows, GroupSpace, SpaceResult, TokenTerm
from dskd_components.aligners import AttentionAligner, CrossModelAttentionModule

if TYPE_CHECKING:
    import torch

    from dskd_components import AlignerModule, LMStates
    from dskd_components.components import Direction
    from dskd_components.models.states import Side


class Nearby(AttentionAligner):
    """Attention falls off with the bytes that lie between two tokens of a text."""

    reads_columns: ClassVar[tuple[str, ...]] = ("student_byte_starts", "teacher_byte_starts")

    name: Literal["cma_nearby"] = "cma_nearby"
    slope: Annotated[float, Field(ge=0)] = 0.1

    class Module(CrossModelAttentionModule):
        slope: float

        def scores(self, student: LMStates, teacher: LMStates) -> torch.Tensor:
            ours, theirs = student.columns["byte_starts"][:, :, None], teacher.columns["byte_starts"][:, None, :]
            return super().scores(student, teacher) - self.slope * (ours - theirs).abs()

    module_class: ClassVar[type[CrossModelAttentionModule]] = Module

    def build(self, **given: Any) -> AlignerModule:
        module = super().build(**given)
        module.slope = self.slope
        return module


class WorthySpans(GroupSpace):
    """Likelihoods of stretches, in which each side's tokens have weights of their own."""

    terms: ClassVar[tuple[str, ...]] = ("worthy_spans",)
    reads_columns: ClassVar[tuple[str, ...]] = ("student_worth", "teacher_worth")

    name: Literal["worthy_spans"] = "worthy_spans"

    def row_values(self, rows: GroupRows) -> torch.Tensor:
        return rows.target_log_probs() * rows.columns["worth"].to(rows.logits.dtype).abs()

    def combine(self, groups: ComparedGroups) -> SpaceResult:
        return SpaceResult(terms={self.terms[0]: TokenTerm(values=(groups.student - groups.teacher).square())})


class WorthyInTheTeachersSpace(WorthySpans):
    """The same at the teacher's positions, whose weights both sides then have."""

    side: ClassVar[Side] = "teacher"
    projector: ClassVar[Direction | None] = "s2t"
    terms: ClassVar[tuple[str, ...]] = ("worthy_projected",)
    reads_columns: ClassVar[tuple[str, ...]] = ("teacher_worth",)

    name: Literal["worthy_projected"] = "worthy_projected"  # type: ignore[assignment]
