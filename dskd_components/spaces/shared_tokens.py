"""The tokens that two vocabularies have in common: distillation across tokenizers without projection."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dskd_components.components.fields import AnyDistance
from dskd_components.components.space import ComparedRows, Direction, Space, SpaceResult
from dskd_components.components.terms import Denominator, TokenTerm
from dskd_components.models.states import Side


class SharedTokensSpace(Space):
    """Each model's own logits meet at the tokens that both vocabularies have.

    One term, ``shared_kd``: `ComparedRows.shared_divergence`, the distance between what either side makes of these
    tokens once it is known to be one of them, weighted by the teacher's probability that it is. So it is a distance of
    proper distributions, never negative, and quiet where the teacher speaks of other tokens. With one vocabulary it is
    the space `shared_vocabulary`.

    Examples:
        >>> SharedTokensSpace(distance="js").needs_shared_tokens
        True
    """

    side: ClassVar[Side] = "student"
    projector: ClassVar[Direction | None] = None
    terms: ClassVar[tuple[str, ...]] = ("shared_kd",)
    distance_terms: ClassVar[tuple[str, ...]] = ("shared_kd",)
    source: ClassVar[str] = (
        "Patiño et al. 2025 (GOLD), Unlocking On-Policy Distillation for Any Model Family: its matched tokens"
    )

    name: Literal["shared_tokens"] = "shared_tokens"
    distance: AnyDistance | None = None
    """Distance of ``shared_kd``; None: the spec's."""
    denominator: Denominator = "scored"
    """What the mean of ``shared_kd`` divides by: the scored student tokens, or the tokens that it runs over."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of ``shared_kd``."""

    @property
    def needs_shared_tokens(self) -> bool:
        """Always: it compares these alone."""
        return True

    @property
    def min_shared_tokens(self) -> int:
        """One: without any, it compares nothing."""
        return 1

    def compare(self, rows: ComparedRows) -> SpaceResult:
        """Return ``shared_kd``."""
        term = TokenTerm(values=rows.shared_divergence(self.distance), denominator=self.denominator, weight=self.weight)
        return SpaceResult(terms={"shared_kd": term})
