"""Parameter groups of the loss, by a trainer's rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dskd_components.errors import ConfigurationError
from dskd_components.integrations.student_with_projectors import shared_parameters

if TYPE_CHECKING:
    from transformers import Trainer

    from dskd_components.loss import DSKDLoss


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
