"""`DSKDLoss`: the dual-space loss as one module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dskd_components.arguments import (
    groups_that_fit,
    require_arguments,
    require_fitting_heads,
    require_known_terms,
    require_matching_states,
    require_parameters,
    require_vocabulary_map,
)
from dskd_components.assembly import build_projectors, projector_heads
from dskd_components.checkpoints import HeadFingerprint
from dskd_components.engines.aligned_batch import Meeting
from dskd_components.engines.reduction import Reduction
from dskd_components.engines.workspace import Workspace
from dskd_components.loss_of_models import LossOfModels
from dskd_components.models.precision import without_autocast
from dskd_components.non_finite import require_finite
from dskd_components.output import DSKDOutput
from dskd_components.parameter_groups import parameter_groups
from dskd_components.vocabularies import Vocabularies

if TYPE_CHECKING:
    from dskd_components.components.alignment import Alignment
    from dskd_components.engines.reduction import LossWeights
    from dskd_components.models.head import Head
    from dskd_components.models.states import LMStates, Side
    from dskd_components.models.token_groups import TokenGroups
    from dskd_components.spec.dskd_spec import DSKDSpec


class DSKDLoss(LossOfModels):
    """Dual-space knowledge distillation loss. It owns the projectors and the aligner, never the models.

    What it does with models, tokenizers and folders is in `LossOfModels`.

    Args:
        spec: what is computed.
        student_hidden_size: width ds of the student's last hidden states.
        teacher_hidden_size: width dt of the teacher's.
        student_embedding_size: width of the student's input embedding; None: as the hidden states.
        teacher_embedding_size: likewise.
        student_head: the student's head, for projectors that are initialised from it (``pinv``, ``live_pinv``).
        teacher_head: likewise.
        teacher_to_student_ids: ``[Vt]``, int64: the student's id of each teacher token, -1 where it has none. Needed
            for two tokenizers by those projectors and by everything that looks at the teacher's own predictions.
        same_token: ``[Vt]``, bool: which entries of that map are the very same token; projectors made from heads keep
            to these. None: all that are mapped.

    Raises:
        ConfigurationError: the spec needs a head or a vocabulary map that is not given; the message names the field.
        InputError: an argument is of the wrong kind, or a head of another width.

    Examples:
        >>> import torch
        >>> from dskd_components import DSKDLoss, DSKDSpec, Head, LMStates
        >>> loss_fn = DSKDLoss(DSKDSpec.preset("dskd"), student_hidden_size=16, teacher_hidden_size=24)
        >>> targets = torch.randint(0, 50, (2, 7))
        >>> student = LMStates(hidden_states=torch.randn(2, 7, 16), targets=targets, head=Head(torch.randn(50, 16)))
        >>> teacher = LMStates(hidden_states=torch.randn(2, 7, 24), targets=targets, head=Head(torch.randn(50, 24)))
        >>> out = loss_fn(student, teacher)
        >>> out.loss.backward()
        >>> sorted(out.terms)
        ['ce', 's2t_kd', 't2s_ce', 't2s_kd']
    """

    def __init__(
        self,
        spec: DSKDSpec,
        *,
        student_hidden_size: int,
        teacher_hidden_size: int,
        student_embedding_size: int | None = None,
        teacher_embedding_size: int | None = None,
        student_head: Head | None = None,
        teacher_head: Head | None = None,
        teacher_to_student_ids: Tensor | None = None,
        same_token: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.hidden_sizes: dict[Side, int] = {"student": student_hidden_size, "teacher": teacher_hidden_size}
        require_arguments(spec, self.hidden_sizes, teacher_to_student_ids, same_token)
        self.vocabularies = Vocabularies(
            sizes=dict.fromkeys(self.hidden_sizes), fingerprints=dict.fromkeys(self.hidden_sizes)
        )
        self.register_buffer("teacher_to_student_ids", teacher_to_student_ids, persistent=False)
        self.register_buffer("same_token", same_token, persistent=False)
        require_fitting_heads({"student": student_head, "teacher": teacher_head}, self.hidden_sizes)
        require_vocabulary_map(spec, teacher_to_student_ids)
        self.head_fingerprints: dict[Side, HeadFingerprint | None] = {
            "student": None if student_head is None else HeadFingerprint.of(student_head, frozen=False),
            "teacher": None if teacher_head is None else HeadFingerprint.of(teacher_head, frozen=True),
        }
        self.aligner = spec.aligner.build(
            student_embedding_size=student_embedding_size or student_hidden_size,
            teacher_embedding_size=teacher_embedding_size or teacher_hidden_size,
        )
        heads = None
        if student_head is not None and teacher_head is not None:
            heads = projector_heads(student_head, teacher_head, teacher_to_student_ids, same_token)
        self.projectors = build_projectors(spec, self.hidden_sizes, heads)
        self._workspace = Workspace()

    def forward(
        self,
        student: LMStates,
        teacher: LMStates,
        *,
        alignment: Tensor | TokenGroups | None = None,
        num_items_in_batch: Tensor | float | None = None,
        step: int | None = None,
        weights: LossWeights | None = None,
    ) -> DSKDOutput:
        """Compute the loss of one batch.

        Args:
            student: the student's states; gradients reach its hidden states and its head.
            teacher: the teacher's states, taken as constants.
            alignment: which positions belong together, for aligners that are told: groups, or for one-to-one pairs
                ``[B, Ts]``, int64, the teacher position of each student position or -1. A position stands for the token
                that it predicts. Cross-model attention only measures itself by it.
            num_items_in_batch: what the mean divides by: the scored student tokens of all micro-batches and ranks that
                make one optimizer step. None: those of this batch.
            step: how many optimizer steps have been taken, 0 at the first; for weights that follow a schedule.
            weights: what the terms are multiplied with in this call, whatever the spec says. None: what it says.

        Returns:
            Loss, terms, counts, metrics.

        Raises:
            InputError: a tensor does not fit, a schedule lacks its step, or the loss would not be finite; the message
                names the tensor or field.
            ConfigurationError: a weight is for a term that there is not.
        """
        weights = self.spec.loss_weights(step) if weights is None else weights
        with without_autocast(student.hidden_states.device):
            student, teacher = self._usable(student, teacher)
            aligned = self.aligner(student, teacher, groups_that_fit(alignment, student, teacher))
            meeting = Meeting(
                spaces=self.spec.spaces,
                measure=self.spec.measure,
                weights=weights,
                student=student,
                teacher=teacher,
                alignment=aligned,
                projections=self.projectors,  # type: ignore[arg-type]  # a ModuleDict is a mapping in all but type
                heads=projector_heads(student.head, teacher.head, self.teacher_to_student_ids, self.same_token),
                teacher_to_student_ids=self.teacher_to_student_ids,
            )
            reduction = Reduction.of(self.spec.reduction, student.scored.sum(), num_items_in_batch)
            measured = self.spec.engine.measure(meeting, reduction, self._workspace)
            values, counts = reduction.values(aligned.terms)
            distilled = sum(weights.of(name, aligned.terms[name].weight) * values[name] for name in values)
            loss = measured.loss + weights.distillation * distilled
            values, counts = {**measured.values, **values}, {**measured.counts, **counts}
        require_known_terms(weights, values)
        require_finite(loss, values, meeting)
        return DSKDOutput(
            loss=loss,
            terms={name: value.detach() for name, value in values.items()},
            counts=counts,
            metrics={name: tally.mean().detach() for name, tally in {**aligned.metrics, **measured.metrics}.items()},
        )

    @torch.no_grad()
    def align(
        self, student: LMStates, teacher: LMStates, *, alignment: Tensor | TokenGroups | None = None
    ) -> Alignment:
        """Return which positions the loss brings together, to look at: ``align(...).plot(...)``.

        Args:
            student: as in `forward`.
            teacher: as in `forward`.
            alignment: as in `forward`.

        Raises:
            InputError: a tensor does not fit.
        """
        with without_autocast(student.hidden_states.device):
            student, teacher = self._usable(student, teacher)
            found: Alignment = self.aligner(student, teacher, groups_that_fit(alignment, student, teacher))
        return found

    def _usable(self, student: LMStates, teacher: LMStates) -> tuple[LMStates, LMStates]:
        """Return both sides once they are known to fit, in full precision, the teacher's as constants."""
        require_matching_states(student, teacher, self.hidden_sizes)
        require_parameters(self, student)
        usable_student = student.checked("student").in_full_precision()
        return usable_student, teacher.checked("teacher").in_full_precision().detached()

    def param_groups(self, *, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Return optimizer parameter groups of the projectors and the aligner, to append to the student's.

        Args:
            lr: learning rate; the papers use a larger one here than for the student.
            weight_decay: weight decay.

        Returns:
            One group, or several if parts of the aligner learn at rates of their own, or none if the spec has no
            parameters.
        """
        factors = {f"aligner.{name}": factor for name, factor in self.aligner.learning_rate_factors().items()}
        return parameter_groups(self, factors, lr=lr, weight_decay=weight_decay)

    def extra_repr(self) -> str:
        """Return the spec, for printing."""
        return str(self.spec)
