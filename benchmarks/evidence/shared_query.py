"""Cross-model attention that starts where the vocabularies meet, and does not see the answer.

As published, the query projection starts at random and the values hold the embedding of the teacher's target, from
which the projected teacher can copy the label. Here the values are the teacher's hidden states alone, and the query
starts as the map under which tokens that both vocabularies have look like one another.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from dskd_components import Aligner, AlignerModule, DSKDLoss
from dskd_components.aligners import CrossModelAttentionModule
from dskd_components.models.run_model import input_embedding

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components import ProjectorHeads
    from dskd_components.components.alignment import Alignment
    from dskd_components.models.offline_teacher import OfflineTeacher
    from dskd_components.models.states import LMStates
    from dskd_components.models.token_groups import TokenGroups
    from dskd_components.models.wrappers import CausalLM


class SharedQueryAttention(Aligner):
    """Cross-model attention whose query `start_from_shared_tokens` gives it."""

    source: ClassVar[str] = "a variant of Zhang et al. 2024 (DSKD), arXiv 2406.17328"

    name: Literal["cma_shared"] = "cma_shared"
    sharpness: float = 6.0
    """By how many nats a token that is the same on both sides is to stand out, on average over the shared tokens."""
    target: bool = False
    """Whether its values have the target's embedding, too, as published."""

    def build(
        self,
        *,
        student_embedding_size: int,
        teacher_embedding_size: int,
        heads: ProjectorHeads | None = None,  # noqa: ARG002
    ) -> AlignerModule:
        """Return the attention."""
        module = SharedQueryModule(student_embedding_size, teacher_embedding_size, std="sample")
        module.target = self.target
        return module


class SharedQueryModule(CrossModelAttentionModule):
    """The attention; without targets its values are the teacher's states."""

    target = False

    def forward(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:
        """Align one batch."""
        found = super().forward(student, teacher, given)
        return found if self.target else replace(found, teacher_values=teacher.hidden_states)


@torch.no_grad()
def start_from_shared_tokens(loss_fn: DSKDLoss, student: CausalLM, teacher: CausalLM | OfflineTeacher) -> None:
    """Start the query of a loss's aligner from the tokens that both vocabularies have; other aligners stay.

    With the embeddings Es and Et of the shared tokens, the query of a student's embedding e is
    ``s pinv(Et) pinv(Es)^T e``, up to a scale: in ``Es pinv(Es) pinv(Et)^T Et^T``, a product of two projections, each
    token stands out in its own row.

    Args:
        loss_fn: made with `SharedQueryAttention`, and knows which tokens are shared.
        student: the student.
        teacher: the teacher.
    """
    aligner = loss_fn.aligner
    if not isinstance(aligner, SharedQueryModule):
        return
    assert loss_fn.teacher_to_student_ids is not None
    assert isinstance(loss_fn.spec.aligner, SharedQueryAttention)
    student_ids, teacher_ids = _shared(loss_fn)
    ours, theirs = input_embedding(student).float()[student_ids], input_embedding(teacher).float()[teacher_ids]
    query = _pinv(theirs) @ _pinv(ours).T
    # A score has both tokens of a position, and is divided by the root of the width of both.
    keys = theirs / theirs.std()
    same = ((ours @ query.T) * keys).sum(1).mean() * 2 / math.sqrt(2 * theirs.shape[1])
    query = query * (loss_fn.spec.aligner.sharpness / same)
    aligner.query.weight.copy_(torch.block_diag(query, query))
    aligner.query.bias.zero_()


def _pinv(rows: Tensor) -> Tensor:
    """Return the pseudo-inverse of a tall matrix, from its Gram matrix."""
    wide = rows.double()
    inverse: Tensor = torch.linalg.pinv(wide.T @ wide, rtol=1e-10, hermitian=True) @ wide.T
    return inverse.to(rows.dtype)


def _shared(loss_fn: DSKDLoss) -> tuple[Tensor, Tensor]:
    ids = loss_fn.teacher_to_student_ids
    assert ids is not None
    shared = ids >= 0
    if loss_fn.same_token is not None:
        shared = shared & loss_fn.same_token
    teacher_ids = shared.nonzero().squeeze(1)
    return ids[teacher_ids], teacher_ids
