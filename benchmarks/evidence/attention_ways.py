"""The ways in which attention learns: as published, and with another query, other values or other projectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from benchmarks.evidence.shared_query import SharedQueryAttention, SharedQueryModule
from dskd_components import DSKDSpec
from dskd_components.aligners import CrossModelAttentionModule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dskd_components import AlignerModule, LMStates, ProjectorHeads
    from dskd_components.components.alignment import Alignment
    from dskd_components.models.token_groups import TokenGroups


class SharedQueryAndTarget(SharedQueryAttention):
    """Attention whose query starts from the shared tokens, and whose values are as published."""

    source: ClassVar[str] = SharedQueryAttention.source

    name: Literal["cma_shared_target"] = "cma_shared_target"  # type: ignore[assignment]

    def build(
        self,
        *,
        student_embedding_size: int,
        teacher_embedding_size: int,
        heads: ProjectorHeads | None = None,  # noqa: ARG002
    ) -> AlignerModule:
        """Return the attention."""
        return _WithTarget(student_embedding_size, teacher_embedding_size, std="sample")


class _WithTarget(SharedQueryModule):
    def forward(self, student: LMStates, teacher: LMStates, given: TokenGroups | None) -> Alignment:
        return CrossModelAttentionModule.forward(self, student, teacher, given)


@dataclass(frozen=True)
class Way:
    """A way to learn attention.

    Args:
        title: for tables.
        spec: of the loss.
        shared: whether its query starts from the shared tokens.
    """

    title: str
    spec: DSKDSpec
    shared: bool = False


PUBLISHED: Final = DSKDSpec.preset("dskd-cma")
HEADS: Final[dict[str, Any]] = {"t2s_projector": "pinv", "s2t_projector": "live_pinv"}

WAYS: Final[Mapping[str, Way]] = {
    "published": Way("`dskd-cma`, as published", PUBLISHED),
    "no target": Way("without the target's embedding", PUBLISHED.replace(aligner=SharedQueryAttention())),
    "heads": Way("with projectors from the heads", PUBLISHED.replace(**HEADS)),
    "kq": Way("with key-query matching (`kq`)", PUBLISHED.replace(aligner="kq")),
    "shared": Way("query from shared tokens", PUBLISHED.replace(aligner=SharedQueryAndTarget()), shared=True),
    "shared, no target": Way(
        "query from shared tokens, no target",
        PUBLISHED.replace(aligner=SharedQueryAttention()),
        shared=True,
    ),
    "shared, no target, heads": Way(
        "query from shared tokens, no target, projectors from the heads",
        PUBLISHED.replace(aligner=SharedQueryAttention(), **HEADS),
        shared=True,
    ),
}
