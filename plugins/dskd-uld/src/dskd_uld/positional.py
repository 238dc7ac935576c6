"""Alignment by place: the k-th scored token of one side belongs to the k-th of the other."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from dskd_components import Aligner, AlignerModule, Alignment, LMStates, TokenGroups
from dskd_components.aligners import GroupedModule


class PositionalModule(AlignerModule):
    """Counts the scored tokens of each sample, and pairs those with equal numbers. It is told nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs = GroupedModule("positional", one_to_one=True, pooling="mean")

    def forward(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:  # noqa: ARG002
        """Align one batch."""
        return self.pairs(student, teacher, TokenGroups(_places(student), _places(teacher)))


class Positional(Aligner):
    """One-to-one pairs by place among the scored tokens of a sample; the longer side's last tokens are left out.

    It presumes nothing of the tokenizers and sees nothing of the text, so pairs drift apart where the two cut it
    differently: ``exact_match`` and ``span`` bring the same text together.
    """

    source: ClassVar[str] = "Boizard et al. 2024 (ULD), arXiv 2402.12030, section 3.2"
    reads_embeddings: ClassVar[bool] = False

    name: Literal["positional"] = "positional"

    def build(self, *, student_embedding_size: int, teacher_embedding_size: int) -> AlignerModule:  # noqa: ARG002
        """Return the module."""
        return PositionalModule()


def _places(states: LMStates) -> Tensor:
    """Return ``[B, T]``, int64: the place of each scored position among those of its sample, -1 elsewhere."""
    _, sample, sizes = torch.unique(states.samples[states.scored], return_inverse=True, return_counts=True)
    by_sample = sample.argsort(stable=True)
    first = sizes.cumsum(0) - sizes
    place = torch.empty_like(sample)
    place[by_sample] = torch.arange(len(sample), device=sample.device) - first[sample[by_sample]]
    places = torch.full_like(states.targets, -1)
    places[states.scored] = place
    return places
