"""Universal Logit Distillation: sorted probabilities of either vocabulary."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dskd_components import ComparedRows, Space, SpaceResult, TokenTerm
from dskd_components.components import Denominator, Side
from dskd_uld.sorted_difference import sorted_difference


class SortedSpace(Space):
    """The two models' own logits meet, each over its own vocabulary, without a projection.

    One term, ``uld``: ``sum abs(p - q)`` over the probabilities of either side, sorted by size. It pulls the student
    towards the teacher's certainty; which tokens that certainty is about, the student learns from its cross entropy.

    Examples:
        >>> from dskd_components import DSKDSpec
        >>> DSKDSpec(spaces=["uld"], aligner="positional").directions
        ()
    """

    side: ClassVar[Side] = "student"
    terms: ClassVar[tuple[str, ...]] = ("uld",)
    distance_terms: ClassVar[tuple[str, ...]] = ("uld",)
    source: ClassVar[str] = "Boizard et al. 2024 (ULD), arXiv 2402.12030, section 3.2"

    name: Literal["uld"] = "uld"
    denominator: Denominator = "scored"
    """What the mean of ``uld`` divides by: the scored student tokens, or the tokens that it runs over."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of ``uld``."""

    def compare(self, rows: ComparedRows) -> SpaceResult:
        """Return ``uld``."""
        student, teacher = rows.log_probs
        values = rows.measure.scale * sorted_difference(student.exp(), teacher.exp())
        return SpaceResult(terms={"uld": TokenTerm(values=values, denominator=self.denominator, weight=self.weight)})
