"""Warnings where a loss with scheduled weights decides: the best checkpoint, an early stop, a learning rate."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from dskd_components.errors import DSKDWarning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dskd_components.spec.dskd_spec import DSKDSpec


def warn_of_evaluations(spec: DSKDSpec, loss: str, *, decides: str, alone: str) -> None:
    """Say by which weights evaluations are made, where they are compared although a schedule changes the training.

    Args:
        spec: of the loss.
        loss: the name of what is compared, for the message.
        decides: what compares it.
        alone: the name of a term that is the student's alone.

    Examples:
        >>> from dskd_components import DSKDSpec
        >>> warn_of_evaluations(DSKDSpec(), "eval_loss", decides="load_best_model_at_end", alone="eval_ce")
    """
    if not spec.scheduled:
        return
    final = ", ".join(f"{name} {schedule.at(spec.final_step):g}" for name, schedule in spec.scheduled.items())
    warnings.warn(
        f"{decides} compares {loss}, and weights follow schedules. All evaluations are by the weights that these end "
        f"with ({final}), so they can be compared; early in training the student has not yet learned for these. "
        f"{alone} is the student's own cross entropy, whatever the weights.",
        DSKDWarning,
        stacklevel=2,
    )


def warn_of_training_loss(spec: DSKDSpec, loss: str, *, decides: str, instead: str) -> None:
    """Say that a loss of training changes with its weights, where it is compared with earlier ones.

    Args:
        spec: of the loss.
        loss: the name of what is compared, for the message.
        decides: what compares it.
        instead: names of what can be compared.

    Examples:
        >>> from dskd_components import DSKDSpec
        >>> warn_of_training_loss(DSKDSpec(), "train_loss", decides="EarlyStopping", instead="val_loss")
    """
    if not spec.scheduled:
        return
    warnings.warn(
        f"{decides} compares {loss} with earlier ones, but {', '.join(spec.scheduled)} follow schedules: it rises and "
        f"falls with the weights, whatever the student learns. Let it compare {instead}.",
        DSKDWarning,
        stacklevel=2,
    )


def warn_of_monitors(trainer: Any, spec: DSKDSpec) -> None:
    """Warn of everything in a `lightning.Trainer` that a loss decides about.

    Args:
        trainer: once it has its optimizers.
        spec: of the loss.
    """
    for decides, monitored in _monitors(trainer):
        if monitored == "val_loss":
            warn_of_evaluations(spec, monitored, decides=decides, alone="val_ce")
        elif monitored == "train_loss":
            warn_of_training_loss(spec, monitored, decides=decides, instead="val_loss or train_ce")


def _monitors(trainer: Any) -> Iterator[tuple[str, str | None]]:
    for callback in trainer.callbacks:
        yield type(callback).__name__, getattr(callback, "monitor", None)
    for configured in trainer.lr_scheduler_configs:
        if configured.reduce_on_plateau:
            yield type(configured.scheduler).__name__, configured.monitor
