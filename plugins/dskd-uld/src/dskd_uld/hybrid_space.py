"""The hybrid form of Universal Logit Distillation: shared tokens by a distance, the others sorted."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from dskd_components import ComparedRows, InputError, Space, SpaceResult, TokenTerm
from dskd_components.components import AnyDistance, Denominator, SharedTokens, Side
from dskd_uld.sorted_difference import sorted_difference


class HybridSpace(Space):
    """The two models' own logits meet: tokens that both vocabularies have by a distance, all others sorted by size.

    Two terms. ``uld_matched``: the term of the space `shared_tokens`, which has it alone and need not sort.
    ``uld_unmatched``: ``sum abs(p - q)`` over the sorted probabilities of the tokens that only one side has. Both are 0
    only where the shared tokens are equally likely on both sides.

    Examples:
        >>> HybridSpace(distance="js").needs_shared_tokens
        True
    """

    side: ClassVar[Side] = "student"
    terms: ClassVar[tuple[str, ...]] = ("uld_matched", "uld_unmatched")
    distance_terms: ClassVar[tuple[str, ...]] = ("uld_matched",)
    source: ClassVar[str] = (
        "Patiño et al. 2025 (GOLD), Unlocking On-Policy Distillation for Any Model Family; Boizard et al. 2024 (ULD), "
        "arXiv 2402.12030"
    )

    name: Literal["uld_hybrid"] = "uld_hybrid"
    distance: AnyDistance | None = None
    """Distance of ``uld_matched``; None: the spec's."""
    denominator: Denominator = "scored"
    """What the means divide by: the scored student tokens, or the tokens that they run over."""
    matched_weight: Annotated[float, Field(ge=0)] | None = 1.0
    """Weight of ``uld_matched``; None: the share of the teacher's vocabulary that is shared, as released."""
    unmatched_weight: Annotated[float, Field(ge=0)] | None = 1.0
    """Weight of ``uld_unmatched``; None: the share of the teacher's vocabulary that is not shared, as released. With 0
    it is sorted for all the same, and logged; the space `shared_tokens` does without."""

    @property
    def needs_shared_tokens(self) -> bool:
        """Always: it treats these tokens apart."""
        return True

    @property
    def min_shared_tokens(self) -> int:
        """One: without any, ``uld_matched`` compares nothing."""
        return 1

    def compare(self, rows: ComparedRows) -> SpaceResult:
        """Return ``uld_matched`` and ``uld_unmatched``.

        Raises:
            InputError: the vocabularies have no token in common.
        """
        shared = rows.shared_tokens
        assert shared is not None, "needs_shared_tokens promises it"
        share = _share(shared, rows.teacher_logits.shape[-1])
        weights = {
            "uld_matched": share if self.matched_weight is None else self.matched_weight,
            "uld_unmatched": 1 - share if self.unmatched_weight is None else self.unmatched_weight,
        }
        values = {
            "uld_matched": rows.shared_divergence(self.distance),
            "uld_unmatched": rows.measure.scale * _unmatched(rows, shared),
        }
        return SpaceResult(
            terms={
                name: TokenTerm(values=values[name], denominator=self.denominator, weight=weights[name])
                for name in values
            }
        )


def _unmatched(rows: ComparedRows, shared: SharedTokens) -> Tensor:
    student, teacher = rows.log_probs
    return sorted_difference(_without(student, shared.student_ids).exp(), _without(teacher, shared.teacher_ids).exp())


def _without(log_probs: Tensor, ids: Tensor) -> Tensor:
    """Return ``[N, V - K]``: the columns of all other tokens."""
    vocabulary = log_probs.shape[-1]
    is_given = torch.zeros(vocabulary, dtype=torch.uint8, device=log_probs.device).index_fill(0, ids, 1)
    # By sorting: how many a mask picks, a device would be asked first.
    other = is_given.argsort(stable=True)[: vocabulary - len(ids)]
    return log_probs[:, other]


def _share(shared: SharedTokens, teacher_vocabulary: int) -> float:
    if len(shared.teacher_ids) == 0:
        raise InputError(
            "The space 'uld_hybrid' compares the tokens that both vocabularies have, but these have none in common. "
            "Use the space 'uld', or check teacher_to_student_ids."
        )
    return len(shared.teacher_ids) / teacher_vocabulary
