"""The ways in which attention learns: as published, and with another query, other values or other projectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.evidence.shared_query import SharedQueryAttention
from dskd_components import DSKDSpec

if TYPE_CHECKING:
    from collections.abc import Mapping


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
    "shared": Way(
        "query from shared tokens", PUBLISHED.replace(aligner=SharedQueryAttention(target=True)), shared=True
    ),
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
