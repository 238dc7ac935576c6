"""The student's space: projected teacher states under the student's head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field

from dskd_components.components.fields import AnyDistance
from dskd_components.components.space import ComparedRows, Direction, Space, SpaceResult
from dskd_components.components.terms import Denominator, Tally, TokenTerm
from dskd_components.models.states import Side

if TYPE_CHECKING:
    from torch import Tensor


class StudentSpace(Space):
    """The teacher's states are projected into the student's space and read by the student's head.

    Two terms: ``t2s_ce`` teaches the projection to predict (the head is a constant there), ``t2s_kd`` pulls the
    student towards what the projected teacher predicts (which is a constant there). Where the student's vocabulary
    does not have the teacher's own choice, a position is left out of ``t2s_ce`` if the choice is its target, and of
    ``t2s_kd`` if targets or filter look at the choice. With ``targets="labels"`` each position has its label, so
    ``t2s_ce`` keeps it.

    Examples:
        >>> StudentSpace(filter="correct", distance="reverse_kl").distance
        ReverseKL(name='reverse_kl')
    """

    side: ClassVar[Side] = "student"
    projector: ClassVar[Direction | None] = "t2s"
    terms: ClassVar[tuple[str, ...]] = ("t2s_ce", "t2s_kd")
    reads_logits: ClassVar[bool] = False
    distance_terms: ClassVar[tuple[str, ...]] = ("t2s_kd",)
    source: ClassVar[str] = "Zhang et al. 2024 (DSKD), arXiv 2406.17328, equations 3 to 5; v2 arXiv 2504.11426"

    name: Literal["student"] = "student"
    distance: AnyDistance | None = None
    """Distance of ``t2s_kd``; None: the spec's."""
    targets: Literal["labels", "teacher_argmax"] = "labels"
    """What ``t2s_ce`` teaches the projection to predict: the student's labels (v1), or the teacher's own most likely
    token, in the student's vocabulary (v2)."""
    filter: Literal["none", "correct", "agreement"] = "none"
    """Which positions count in ``t2s_kd``: all, those where the projected teacher predicts the label, or those where
    it predicts what the teacher itself predicts."""
    agreement_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """With the filter ``agreement``: once more than this share of a batch agrees, all its positions count, as
    published for v2. It looks at the whole batch, so a batch and its micro-batches differ. None: never."""
    ce_denominator: Denominator = "scored"
    """What the mean of ``t2s_ce`` divides by: the scored student tokens, or the tokens that the term keeps."""
    kd_denominator: Denominator = "scored"
    """What the mean of ``t2s_kd`` divides by; ``kept``, as published for v2, depends on the whole batch."""
    ce_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of ``t2s_ce``."""
    kd_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of ``t2s_kd``."""

    @property
    def needs_teacher_argmax(self) -> bool:
        """Whether targets or filter look at the teacher's own prediction."""
        return self.targets == "teacher_argmax" or self.filter == "agreement"

    def compare(self, rows: ComparedRows) -> SpaceResult:
        """Return ``t2s_ce`` and ``t2s_kd``."""
        predicted = rows.predicted("teacher")
        targets = rows.targets if self.targets == "labels" else _argmax_of(rows)
        cross_entropy = rows.cross_entropy("teacher", targets)
        keep = self._keep(rows, predicted)
        hits = {"t2s_accuracy": rows.targets}
        if self.needs_teacher_argmax:
            hits["t2s_agreement"] = _argmax_of(rows)
        return SpaceResult(
            terms={
                "t2s_ce": TokenTerm(
                    values=cross_entropy,
                    keep=targets >= 0,
                    denominator=self.ce_denominator,
                    weight=self.ce_weight,
                ),
                "t2s_kd": TokenTerm(
                    values=rows.divergence(self.distance, detach_teacher=True),
                    keep=keep,
                    eligible=_argmax_of(rows) >= 0 if self.needs_teacher_argmax else None,
                    widen_above=self.agreement_threshold if self.filter == "agreement" else None,
                    denominator=self.kd_denominator,
                    weight=self.kd_weight,
                ),
            },
            metrics={
                "t2s_ce_covered": _over_targets(cross_entropy, targets),
                **{name: _share_of_hits(predicted, wanted) for name, wanted in hits.items()},
                **({} if keep is None else {"t2s_kept": Tally(keep.sum(), torch.ones_like(keep).sum())}),
            },
        )

    def _keep(self, rows: ComparedRows, predicted: Tensor) -> Tensor | None:
        if self.filter == "none":
            return None
        return predicted == (rows.targets if self.filter == "correct" else _argmax_of(rows))


def _argmax_of(rows: ComparedRows) -> Tensor:
    assert rows.teacher_argmax is not None, "needs_teacher_argmax promises it"
    return rows.teacher_argmax


def _over_targets(values: Tensor, targets: Tensor) -> Tally:
    known = targets >= 0
    return Tally(values.detach().where(known, 0.0).sum(), known.sum())


def _share_of_hits(predicted: Tensor, wanted: Tensor) -> Tally:
    return Tally((predicted == wanted).sum(), (wanted >= 0).sum())
