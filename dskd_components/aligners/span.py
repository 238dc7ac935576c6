"""Alignment of the shortest stretches of text that both tokenizers cut out."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dskd_components.aligners.grouped import GroupedModule, Pooling
from dskd_components.components.aligner import Aligner, TextMethod

if TYPE_CHECKING:
    from dskd_components.components.aligner import AlignerModule


class Span(Aligner):
    """Groups of several tokens to several, closed at each border that both sides share.

    Every scored token that stands for text takes part. What stands for several tokens of the other side is their mean
    or the last of them.
    """

    source: ClassVar[str] = "dskd_components, docs/alignment.md"
    reads_embeddings: ClassVar[bool] = False
    text_method: ClassVar[TextMethod | None] = "span"

    name: Literal["span"] = "span"
    pooling: Pooling = "mean"
    """What stands for several tokens of the other side."""

    def build(self, *, student_embedding_size: int, teacher_embedding_size: int) -> AlignerModule:  # noqa: ARG002
        """Return the module."""
        return GroupedModule(self.name, one_to_one=False, pooling=self.pooling)
