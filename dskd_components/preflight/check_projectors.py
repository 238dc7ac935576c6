"""How many of the logits a projector made from the heads keeps before any training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dskd_components.preflight.report import Finding
from dskd_components.projectors.pinv import PinvProjection

if TYPE_CHECKING:
    from collections.abc import Iterator

LOST: Final = 0.95
"""From this residual on, a projector starts with next to nothing of what it projects."""


def check_projectors(loss_fn: Any) -> Iterator[Finding]:
    """Look at the residuals of pseudo-inverse projectors.

    Args:
        loss_fn: a `DSKDLoss`.
    """
    for direction, projection in loss_fn.projectors.items():
        if isinstance(projection, PinvProjection):
            found = f"{direction}: the initial map loses {projection.residual:.1%} of the logits over the shared tokens"
            lost = projection.residual > LOST
            advice = "use the projector 'linear' or 'mlp', or a wider student" if lost else ""
            yield Finding("warning" if lost else "ok", "pinv residual", found, advice)
