"""Alignment of the tokens that both tokenizers cut alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dskd_components.aligners.grouped import GroupedModule
from dskd_components.components.aligner import Aligner, TextMethod

if TYPE_CHECKING:
    from dskd_components.components.aligner import AlignerModule


class ExactMatch(Aligner):
    """One-to-one pairs of tokens that stand for the same bytes of the text; all other tokens are left out.

    Both models have then read the same text and are asked for the same next piece of it.
    """

    source: ClassVar[str] = "Zhang et al. 2025 (DSKD v2), arXiv 2504.11426, exact token alignment"
    reads_embeddings: ClassVar[bool] = False
    text_method: ClassVar[TextMethod | None] = "exact_match"

    name: Literal["exact_match"] = "exact_match"

    def build(self, *, student_embedding_size: int, teacher_embedding_size: int) -> AlignerModule:  # noqa: ARG002
        """Return the module."""
        return GroupedModule(self.name, one_to_one=True, pooling="mean")
