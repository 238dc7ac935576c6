"""Alignment by dynamic time warping over token edit distances."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dskd_components.aligners.grouped import GroupedModule, Pooling
from dskd_components.components.aligner import Aligner, TextMethod

if TYPE_CHECKING:
    from dskd_components.components.aligner import AlignerModule


class MinEdit(Aligner):
    """Tokens that the cheapest warping path joins; it needs no knowledge of the text, and may be wrong.

    As released, only one-to-one joints count. Pooled, all tokens that the path joins, directly or through others, form
    one group.
    """

    source: ClassVar[str] = "Wan et al. 2024 (FuseLLM), arXiv 2401.10491, and the code of arXiv 2406.17328"
    reads_embeddings: ClassVar[bool] = False
    text_method: ClassVar[TextMethod | None] = "min_edit"

    name: Literal["min_edit"] = "min_edit"
    many_to_one: Literal["drop", "pool"] = "drop"
    """What becomes of tokens that the path joins with several: left out, as released, or pooled."""
    pooling: Pooling = "mean"
    """With ``pool``: what stands for several tokens of the other side."""

    def build(self, *, student_embedding_size: int, teacher_embedding_size: int) -> AlignerModule:  # noqa: ARG002
        """Return the module."""
        return GroupedModule(self.name, one_to_one=self.many_to_one == "drop", pooling=self.pooling)
