"""What a trainer does to its model alone, done to the loss as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from dskd_components.distributed import synchronise

if TYPE_CHECKING:
    from dskd_components.loss import DSKDLoss


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
