"""Projectors under a trainer: their optimizer groups, their files beside its checkpoints, and the callback for both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from transformers import TrainerCallback

from dskd_components.distributed import synchronise
from dskd_components.errors import CheckpointError, ConfigurationError
from dskd_components.integrations.student_with_projectors import shared_parameters

if TYPE_CHECKING:
    from transformers import Trainer

    from dskd_components.loss.dskd_loss import DSKDLoss


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


class ProjectorCallback(TrainerCallback):
    """Keeps the parameters of a loss the same on all ranks, and their gradients those of one window.

    Args:
        loss_fn: the loss.
    """

    def __init__(self, loss_fn: DSKDLoss) -> None:
        self._loss_fn = loss_fn

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Begin with the parameters of rank 0, as data-parallel wrappers do, and without gradients."""
        synchronise(self._loss_fn)
        self._loss_fn.zero_grad()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Forget the gradients, as the trainer does for its model."""
        self._loss_fn.zero_grad()


def projector_groups(trainer: Trainer, loss_fn: DSKDLoss, *, lr: float) -> list[dict[str, Any]]:
    """Return the parameter groups of a loss, with weight decay where the trainer has it in its model.

    Args:
        trainer: says which parameters decay, and how fast.
        loss_fn: the loss.
        lr: its learning rate.

    Raises:
        ConfigurationError: the loss hangs on the student, and so is in the optimizer already.
    """
    student: Any = trainer.model
    names = shared_parameters(loss_fn, student)
    if names:
        raise ConfigurationError(
            f"The loss is part of the student ({names[0]!r} is a parameter of both), so it would be saved with it. "
            "Leave it out of the student; the trainer optimises it by itself."
        )
    decaying_names = set(trainer.get_decay_parameter_names(loss_fn))
    decaying = {id(parameter) for name, parameter in loss_fn.named_parameters() if name in decaying_names}
    groups = []
    for group in loss_fn.param_groups(lr=lr):
        for decays in (True, False):
            parameters = [parameter for parameter in group["params"] if (id(parameter) in decaying) == decays]
            if parameters:
                weight_decay = trainer.args.weight_decay if decays else 0.0
                groups.append(group | {"params": parameters, "weight_decay": weight_decay})
    return groups
