"""Alignment for one tokenizer: a position belongs to the same position."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, Literal

import torch

from dskd_components.components.aligner import Aligner, AlignerModule
from dskd_components.components.alignment import Alignment
from dskd_components.errors import InputError
from dskd_components.models.host_reads import Check

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.projector import ProjectorHeads
    from dskd_components.models.states import LMStates
    from dskd_components.models.token_groups import TokenGroups


class IdentityAlignment(Alignment):
    """Both maps are the identity."""

    moves_states: ClassVar[bool] = True

    def to_student(self, teacher_side: Tensor) -> Tensor:
        """Return the argument."""
        return teacher_side

    def to_teacher(self, student_side: Tensor) -> Tensor:
        """Return the argument."""
        return student_side

    def teacher_index(self) -> Tensor:
        """Return ``[B, T]``: each position itself, -1 where it is not covered."""
        covered = self.student_covered
        positions = torch.arange(covered.shape[1], device=covered.device).expand_as(covered)
        return positions.where(covered, -1)

    def groups_of_positions(self) -> tuple[Tensor, Tensor]:
        """Return groups of one position each."""
        covered = self.student_covered
        own = torch.arange(covered.numel(), device=covered.device).view_as(covered).where(covered, -1)
        return own, own


class IdentityModule(AlignerModule):
    """Checks that both sides are of one length and one text, then maps positions to themselves."""

    def forward(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:
        """Align one batch."""
        _require_one_shape(student, teacher)
        both = student.scored & teacher.scored
        checks = [_one_tokenization(student, teacher, both)]
        if given is not None:
            checks.insert(0, _groups_of_themselves(given))
        return IdentityAlignment(
            student_covered=both,
            teacher_covered=both,
            student_values=student.hidden_states,
            teacher_values=teacher.hidden_states,
            checks=checks,
        )


class Identity(Aligner):
    """For models that share a tokenizer: both read the same tokens, so positions belong to themselves.

    Positions count where both sides score them.
    """

    source: ClassVar[str] = "Zhang et al. 2024 (DSKD), arXiv 2406.17328, section 3.1"
    reads_embeddings: ClassVar[bool] = False
    same_tokenizer: ClassVar[bool] = True

    name: Literal["identity"] = "identity"

    def build(
        self,
        *,
        student_embedding_size: int,  # noqa: ARG002
        teacher_embedding_size: int,  # noqa: ARG002
        heads: ProjectorHeads | None = None,  # noqa: ARG002
    ) -> AlignerModule:
        """Return the module that pairs equal positions; it has no parameters."""
        return IdentityModule()


ADVICE: Final = (
    "The aligner 'identity' is for models that share a tokenizer and read the same tokens; for two tokenizers "
    'build the spec with aligner="cma".'
)


def _require_one_shape(student: LMStates, teacher: LMStates) -> None:
    if student.targets.shape != teacher.targets.shape:
        raise InputError(
            f"student.targets {list(student.targets.shape)} and teacher.targets {list(teacher.targets.shape)} differ "
            f"in shape. {ADVICE}"
        )


def _groups_of_themselves(given: TokenGroups) -> Check:
    def complain() -> None:
        raise InputError(
            "alignment: with the aligner 'identity' each position belongs to itself, but the groups given are not "
            'the same on both sides. For two tokenizers, build the spec with aligner="cma" or another one.'
        )

    return Check((given.student != given.teacher).any(), complain)


def _one_tokenization(student: LMStates, teacher: LMStates, both: Tensor) -> Check:
    different = both & (student.targets != teacher.targets)

    def complain() -> None:
        sample, position = different.nonzero()[0].tolist()
        raise InputError(
            f"student.targets and teacher.targets differ, first at [sample {sample}, position {position}]: "
            f"{int(student.targets[sample, position])} and {int(teacher.targets[sample, position])}. {ADVICE}"
        )

    return Check(different.any(), complain)
