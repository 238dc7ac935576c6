"""Projectors beside an engine that takes one model: an optimizer of their own, that follows the student's."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from dskd_components.errors import DSKDWarning
from dskd_components.integrations.projectors import FOLDER, projector_groups

if TYPE_CHECKING:
    from typing import Self

    from torch import nn
    from transformers import Trainer

    from dskd_components.loss.dskd_loss import DSKDLoss

FILE: Final = "optimizer.pt"
"""The file in a checkpoint's folder of projectors."""


class ProjectorOptimizer:
    """Optimises projectors and aligner where an engine holds the student alone: FSDP2, DeepSpeed.

    Such an engine shards, reduces, scales, clips and saves the parameters of its one model, and takes no others. So
    these parameters stay whole on each rank, and have an optimizer of the trainer's kind beside the engine's. Its
    learning rates follow the student's: whatever schedule the engine has, each has the same share of its full rate.

    Args:
        optimizer: of the parameters of a loss, with their full learning rates.
        scaled: whether the engine multiplies the loss before ``backward``, as it does for float16.

    Examples:
        >>> import torch
        >>> student, projector = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        >>> schedule = torch.optim.SGD(student.parameters(), lr=0.1)
        >>> apart = ProjectorOptimizer(torch.optim.SGD(projector.parameters(), lr=0.4))
        >>> schedule.param_groups[0]["lr"] = 0.05
        >>> apart.follow(schedule, full=0.1)
        >>> apart.optimizer.param_groups[0]["lr"]
        0.2
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, scaled: bool = False) -> None:
        self.optimizer = optimizer
        self._scaled = scaled
        self._scale: Tensor | None = None
        self._is_finite = True
        for group in optimizer.param_groups:
            # In the groups, so that it is saved and restored with them, as schedulers have it.
            group["initial_lr"] = group["lr"]

    @classmethod
    def of(cls, trainer: Trainer, loss_fn: DSKDLoss, *, lr: float) -> Self | None:
        """Return the optimizer of a loss; None if it has nothing to optimise.

        It is of the class and has the options that the trainer chooses by ``optim``; AdamW where these belong to the
        layers of one model (GaLore, LOMO, Muon).

        Args:
            trainer: says which optimizer, and what decays how fast.
            loss_fn: the loss.
            lr: its learning rate.

        Raises:
            ConfigurationError: as in `projector_groups`.
        """
        groups = projector_groups(trainer, loss_fn, lr=lr)
        if not groups:
            return None
        model: Any = trainer.model
        kind, options = trainer.optimizer_cls_and_kwargs or trainer.get_optimizer_cls_and_kwargs(trainer.args, model)
        of_one_model = {"params", "model", "optimizer_dict"} & options.keys()
        if of_one_model or not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
            args = trainer.args
            kind, options = (
                torch.optim.AdamW,
                {"lr": lr, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon},
            )
        optimizer: torch.optim.Optimizer = kind(groups, **options)
        return cls(optimizer, scaled=trainer.accelerator.mixed_precision == "fp16")

    def follow(self, student: Any, *, full: float) -> None:
        """Take the same share of the full learning rates that the student's next step has. Call it before `backward`.

        Args:
            student: its optimizer, as the engine has made it.
            full: its full learning rate, for schedules that do not keep it; 0: there is no share, and the rates of
                projectors stay full.
        """
        group = student.param_groups[0]
        full = float(group.get("initial_lr", full))
        share = float(group["lr"]) / full if full else 1.0
        for own in self.optimizer.param_groups:
            own["lr"] = own["initial_lr"] * share
        train = getattr(self.optimizer, "train", None)
        if callable(train):  # those that are free of schedules
            train()

    def noting_scale(self, loss: Tensor) -> Tensor:
        """Return the loss, and keep what the engine multiplies it with: its gradient, once it is run backward.

        Args:
            loss: scalar.
        """
        if self._scaled and loss.requires_grad:
            loss.register_hook(self._note)
        return loss

    def _note(self, scale: Tensor) -> None:
        self._scale = scale.detach()

    def unscale(self) -> None:
        """Divide the gradients by what the engine has multiplied the loss with. Call it once a step, on all ranks."""
        if not self._scaled or self._scale is None:
            return
        gradients = [parameter.grad for parameter in self._parameters() if parameter.grad is not None]
        for gradient in gradients:
            gradient.div_(self._scale.to(gradient.device))
        self._is_finite = all(bool(gradient.isfinite().all()) for gradient in gradients)
        self._scale = None

    def step(self, *, skipped: bool = False) -> None:
        """Take a step, unless gradients of float16 have overflowed.

        Args:
            skipped: whether the engine has left the student's out for that reason.
        """
        if not skipped and self._is_finite:
            self.optimizer.step()
        self._is_finite = True

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def save(self, checkpoint: str | Path) -> None:
        """Save the state beside the projectors. All ranks have the same; one of them calls.

        Args:
            checkpoint: the folder of the checkpoint, with the projectors in it.
        """
        torch.save(self.optimizer.state_dict(), Path(checkpoint, FOLDER, FILE))

    def load(self, checkpoint: str | Path) -> None:
        """Restore the state.

        Args:
            checkpoint: the folder of the checkpoint. Without a state in it, a warning says that moments begin anew.
        """
        file = Path(checkpoint, FOLDER, FILE)
        if not file.is_file():
            warnings.warn(
                f"{file}: not there, so the optimizer of the projectors begins anew. Checkpoints have it that were "
                "made by FSDP2 or DeepSpeed without save_only_model.",
                DSKDWarning,
                stacklevel=2,
            )
            return
        self.optimizer.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
