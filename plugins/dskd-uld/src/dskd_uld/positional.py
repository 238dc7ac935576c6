"""Alignment by place: the k-th scored token of one side belongs to the k-th of the other."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from dskd_components import Aligner, AlignerModule, Alignment, LMStates, ProjectorHeads, TokenGroups
from dskd_components.aligners import GroupedModule
from dskd_components.models.states import small_numbers


class PositionalModule(AlignerModule):
    """Counts the scored tokens of each sample, and pairs those with equal numbers. It is told nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs = GroupedModule("positional", one_to_one=True, pooling="mean")

    def forward(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:  # noqa: ARG002
        """Align one batch."""
        return self.pairs.unread(student, teacher, TokenGroups(_places(student), _places(teacher)))


class Positional(Aligner):
    """One-to-one pairs by place among the scored tokens of a sample; the longer side's last tokens are left out.

    It presumes nothing of the tokenizers and sees nothing of the text, so pairs drift apart where the two cut it
    differently: ``exact_match`` and ``span`` bring the same text together.
    """

    source: ClassVar[str] = "Boizard et al. 2024 (ULD), arXiv 2402.12030, section 3.2"
    reads_embeddings: ClassVar[bool] = False

    name: Literal["positional"] = "positional"

    @property
    def is_hard(self) -> bool:
        """Always: places are known before anything is trained."""
        return True

    def build(
        self,
        *,
        student_embedding_size: int,  # noqa: ARG002
        teacher_embedding_size: int,  # noqa: ARG002
        heads: ProjectorHeads | None = None,  # noqa: ARG002
    ) -> AlignerModule:
        """Return the module."""
        return PositionalModule()


def _places(states: LMStates) -> Tensor:
    """Return ``[B, T]``, int64: the place of each scored position among those of its sample, -1 elsewhere."""
    scored = states.scored.flatten()
    sample = small_numbers(states.samples)[0].flatten().where(scored, len(scored))  # the others come last
    in_order, order = sample.sort(stable=True)
    place = torch.arange(len(order), device=order.device) - torch.searchsorted(in_order, in_order)
    places = torch.empty_like(place).scatter(0, order, place).where(scored, -1)
    return places.view_as(states.targets)
