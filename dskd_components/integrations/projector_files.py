"""Projectors and aligner beside a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from dskd_components.errors import CheckpointError

if TYPE_CHECKING:
    from dskd_components.loss import DSKDLoss

FOLDER: Final = "projectors"
"""The folder within a checkpoint."""


def save_projectors(loss_fn: DSKDLoss, checkpoint: str | Path) -> None:
    """Save a loss into a checkpoint.

    Args:
        loss_fn: the loss.
        checkpoint: the folder of the checkpoint; made if it is not there.

    Raises:
        CheckpointError: as in `DSKDLoss.save`.
    """
    loss_fn.save(Path(checkpoint) / FOLDER)


def load_projectors(loss_fn: DSKDLoss, checkpoint: str | Path) -> None:
    """Restore a loss from a checkpoint.

    Args:
        loss_fn: the loss, made from the spec that the checkpoint was made with.
        checkpoint: the folder of the checkpoint.

    Raises:
        CheckpointError: there is none, or as in `DSKDLoss.restore`.
    """
    folder = Path(checkpoint) / FOLDER
    if not folder.is_dir():
        raise CheckpointError(
            f"{checkpoint}: no folder {FOLDER}, so the projectors cannot be resumed. It is no checkpoint of this "
            "library's trainer, or was not finished; resume from an earlier one."
        )
    loss_fn.restore(folder)
