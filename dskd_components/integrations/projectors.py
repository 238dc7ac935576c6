"""Projectors under a trainer: their optimizer groups, their files beside its checkpoints, and the callback for both."""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from torch import nn
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from dskd_components.distributed import synchronise
from dskd_components.errors import CheckpointError, ConfigurationError, as_sentence
from dskd_components.integrations.chosen_by_loss import warn_of_evaluations
from dskd_components.integrations.student_with_projectors import require_loss, shared_parameters
from dskd_components.loss.checkpoints import (
    checkpoint_tensors,
    describe_loss,
    fill,
    read_checkpoint,
    require_no_difference,
)
from dskd_components.loss.dskd_loss import DSKDLoss

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from torch import Tensor
    from transformers import Trainer, TrainingArguments


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
    # The trainer writes its state last. Of an earlier run it would vouch for a mixture of that run and this one, if
    # this one were killed before it is done.
    (Path(checkpoint) / TRAINER_STATE_NAME).unlink(missing_ok=True)
    loss_fn.save(Path(checkpoint) / FOLDER)


@contextmanager
def naming_other_shapes(checkpoint: str | Path) -> Iterator[None]:
    """Say what to do where a trainer cannot load a checkpoint's student into the one at hand.

    Args:
        checkpoint: the folder of the checkpoint.

    Raises:
        CheckpointError: tensors of both have other shapes; the message has the first of them.
    """
    try:
        yield
    except RuntimeError as error:
        mismatch = next((line.strip() for line in str(error).splitlines() if "size mismatch" in line), None)
        if mismatch is None:
            raise
        raise CheckpointError(
            f"{checkpoint}: the student that was saved has other shapes than the one at hand: {as_sentence(mismatch)} "
            "Resume with the student as the run began with it, its embeddings resized alike; with another one, begin "
            "a new run."
        ) from error


def load_projectors(loss_fn: DSKDLoss, checkpoint: str | Path, *, accept: Collection[str] = ()) -> None:
    """Restore a loss from a checkpoint.

    Args:
        loss_fn: the loss, made from the spec that the checkpoint was made with.
        checkpoint: the folder of the checkpoint.
        accept: differences that are meant, by the paths that the error names. Paths that this checkpoint does not have
            are passed over: others of the run may have them.

    Raises:
        CheckpointError: there is none, it was not finished, or as in `DSKDLoss.restore`.
    """
    folder = Path(checkpoint) / FOLDER
    missing = [path.name for path in (folder, Path(checkpoint) / TRAINER_STATE_NAME) if not path.exists()]
    if missing:
        raise CheckpointError(
            f"{checkpoint}: there is no {missing[0]}, so the projectors cannot be resumed. It is no checkpoint of this "
            "library's trainer, or was not finished; resume from an earlier one."
        )
    saved = read_checkpoint(folder)
    require_no_difference(saved.description, describe_loss(loss_fn), accept, source=str(saved.file), strict=False)
    saved.restore(loss_fn)


class HoldsLoss(Protocol):
    """What the callback needs of a trainer."""

    loss_fn: DSKDLoss
    args: TrainingArguments

    def begin_means(self) -> None:
        """Begin the means of a training."""

    def step_projectors(self) -> None:
        """Take the step of projectors that are not in the trainer's optimizer."""


class ProjectorCallback(TrainerCallback):
    """Keeps the parameters of a loss the same on all ranks, and gradients and means those of one training.

    Args:
        trainer: whose loss it is.
    """

    def __init__(self, trainer: HoldsLoss) -> None:
        # The trainer holds its callbacks, and should go with its memory as soon as nobody holds it.
        self._trainer: HoldsLoss = weakref.proxy(trainer)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Begin with the parameters of rank 0, as data-parallel wrappers do, and with nothing of a training before."""
        metric = self._trainer.args.metric_for_best_model
        if metric in ("loss", "eval_loss"):
            decides = f"metric_for_best_model={metric!r}"
            warn_of_evaluations(self._trainer.loss_fn.spec, "eval_loss", decides=decides, alone="eval_ce")
        synchronise(self._trainer.loss_fn)
        self._trainer.loss_fn.zero_grad()
        self._trainer.begin_means()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Take the step of the projectors where an engine takes that of the student alone."""
        self._trainer.step_projectors()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Forget the gradients, as the trainer does for its model."""
        self._trainer.loss_fn.zero_grad()


def loss_for(student: nn.Module, loss_fn: object) -> DSKDLoss:
    """Return the loss that is given, or the one that a given function makes.

    Args:
        student: the student.
        loss_fn: a loss, or a function of a student.

    Raises:
        InputError: it is no loss.
    """
    # Classes and tokenizers can be called, too.
    is_other = isinstance(loss_fn, nn.Module | type) or hasattr(loss_fn, "get_vocab")
    made: object = loss_fn(student) if callable(loss_fn) and not is_other else loss_fn
    return require_loss(made)


class FreshProjectors:
    """Gives each student of a trainer that makes several, one a training, the loss to begin with.

    Args:
        loss_fn: a loss, whose tensors are set back to what they were for the first student; or a function that makes
            one for a student, by the seed that was set for it.
    """

    def __init__(self, loss_fn: DSKDLoss | Callable[[Any], DSKDLoss]) -> None:
        self._given = loss_fn
        self._start: dict[str, Tensor] | None = None

    def of(self, student: nn.Module) -> DSKDLoss:
        """Return the loss for a student that is not trained yet.

        Args:
            student: the student.
        """
        if not isinstance(self._given, DSKDLoss):
            return loss_for(student, self._given)
        if self._start is None:
            self._start = {name: tensor.cpu().clone() for name, tensor in checkpoint_tensors(self._given).items()}
        fill(self._given, self._start)
        return self._given


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
