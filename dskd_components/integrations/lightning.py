"""`DSKDLightningModule`: the loss in a `lightning.Trainer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy

from dskd_components.errors import CheckpointError, ConfigurationError
from dskd_components.integrations.chosen_by_loss import warn_of_monitors
from dskd_components.integrations.student_with_projectors import StudentWithProjectors, require_rates
from dskd_components.integrations.token_means import TokenMeans
from dskd_components.loss.checkpoints import (
    describe_loss,
    parse_description,
    paths_to_accept,
    require_no_difference,
)
from dskd_components.loss.clipping import PROJECTORS_NORM, STUDENT_NORM, checked_max_norm, clip_grad_norm
from dskd_components.models.scored_tokens import scored_tokens

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor, nn

    from dskd_components.loss.dskd_loss import DSKDLoss


DESCRIPTION: Final = "dskd_components"
"""The key, in a checkpoint, of what the projectors are learned for."""


class DSKDLightningModule(LightningModule):
    """Distils a student in a `lightning.Trainer`, with its accumulation, clipping, precision and strategies.

    Lightning does not look ahead, so while a window accumulates nobody knows how many tokens it will score. Gradients
    are therefore made for the tokens of its first micro-batch and, the loss being linear in that, corrected once before
    the optimizer's step: windows of uneven micro-batches give the gradient of the whole.

    Logged are ``train_loss`` and each term and metric with that prefix, as means over the scored tokens of each
    optimizer step, the norms of the gradients of student and projectors, which are clipped apart, and ``val_loss`` and
    the others over those of each validation. Where weights follow schedules, validations are by the numbers that these
    end with, so that they can be compared with one another.

    Args:
        student: the student. ``module.student.save_pretrained(folder)`` exports it clean.
        teacher: the teacher, or a `TeacherStore` of it. It goes along to the device, but is in no checkpoint.
        loss_fn: the loss; its parameters are in the checkpoints.
        lr: the student's learning rate.
        projector_lr: that of projectors and aligner; None: as the student's.
        weight_decay: of all. Override ``configure_optimizers`` for anything else, with ``self.param_groups()``.
        accept: differences between a checkpoint (``ckpt_path``) and ``loss_fn`` that are meant, by the paths that the
            error names: ``["spec.kd_rate"]``.

    Raises:
        InputError: loss, student and teacher do not go together, or a rate is no number, or negative.
        CheckpointError: ``accept`` is no list of paths.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        loss_fn: DSKDLoss,
        *,
        lr: float = 5e-5,
        projector_lr: float | None = None,
        weight_decay: float = 0.0,
        accept: Collection[str] = (),
    ) -> None:
        super().__init__()
        require_rates(lr=lr, projector_lr=projector_lr, weight_decay=weight_decay)
        self.distillation = StudentWithProjectors(student, loss_fn, teacher)
        self.lr = lr
        self.projector_lr = projector_lr
        self.weight_decay = weight_decay
        self.accept = paths_to_accept(accept)
        self._begin_window()
        self._train_means, self._validation_means = TokenMeans(), TokenMeans()

    @property
    def student(self) -> Any:
        """The student."""
        return self.distillation.student

    def param_groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups of student, projectors and aligner."""
        return self.distillation.param_groups(
            lr=self.lr, projector_lr=self.projector_lr, weight_decay=self.weight_decay
        )

    def configure_optimizers(self) -> Any:
        """Return AdamW over `param_groups`."""
        return torch.optim.AdamW(self.param_groups())

    def setup(self, stage: str) -> None:
        """Refuse what would leave the loss wrongly normalised.

        Args:
            stage: as in Lightning.

        Raises:
            ConfigurationError: DeepSpeed, which keeps gradients to itself.
        """
        if stage == "fit" and isinstance(self.trainer.strategy, DeepSpeedStrategy):
            raise ConfigurationError(
                "DeepSpeedStrategy keeps gradients to itself, so they cannot be divided by the tokens of a window. Use "
                "DDP or FSDP, or StudentWithProjectors in a loop of your own."
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the projectors are learned for, to be compared by whoever resumes.

        Args:
            checkpoint: what is about to be written.
        """
        checkpoint[DESCRIPTION] = describe_loss(self.distillation.loss_fn).model_dump_json()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another spec or of other models, before anything of it is taken over.

        Args:
            checkpoint: what was read.

        Raises:
            CheckpointError: there are differences besides those of ``accept``; the message has both values of each. Or
                it is no checkpoint of this module.
        """
        if DESCRIPTION not in checkpoint:
            raise CheckpointError(
                f"The checkpoint has no {DESCRIPTION!r}, which says what its projectors were learned for: it is "
                "not from a DSKDLightningModule, or its on_save_checkpoint was overridden without a call of super()."
            )
        saved = parse_description("The checkpoint", checkpoint[DESCRIPTION])
        own = describe_loss(self.distillation.loss_fn)
        require_no_difference(saved, own, self.accept, source="The checkpoint", strict=False)

    def on_fit_start(self) -> None:
        """Begin anew, and bring the teacher along to the device."""
        warn_of_monitors(self.trainer, self.distillation.loss_fn.spec)
        self._begin_window()
        self._train_means = TokenMeans()
        self.distillation.teacher.to(self.device)

    def on_validation_start(self) -> None:
        """Bring the teacher along to the device."""
        self.distillation.teacher.to(self.device)

    def _begin_window(self) -> None:
        self._divided_by: Tensor | None = None
        self._scored: Tensor | None = None

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the loss of one micro-batch, scaled so that Lightning's divisions cancel.

        Args:
            batch: as in `DSKDLoss.run`.
            batch_idx: its number.
        """
        scored = scored_tokens(batch)
        summed = self.distillation.loss_fn.spec.reduction == "sum"
        if self._divided_by is None or self._scored is None:
            self._divided_by = self._sum_over_ranks(scored).clamp_min(1)
            self._scored = torch.zeros_like(scored)
        self._scored = self._scored + scored
        num_items = None if summed else self._divided_by
        output = self.distillation(batch, num_items_in_batch=num_items, step=self.global_step)
        self._train_means.add(output, scored=scored, divided_by=1 if summed else self._divided_by)
        loss: Tensor = output.loss
        # Lightning divides by the micro-batches of a window, and its strategies average over ranks.
        return loss * (self.trainer.accumulate_grad_batches * self.trainer.world_size)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients of a window by all the tokens that it scores, and log it.

        Args:
            optimizer: whose parameters they are.
        """
        assert self._divided_by is not None
        assert self._scored is not None
        if self.distillation.loss_fn.spec.reduction == "mean":
            correction = float(self._divided_by) / max(float(self._sum_over_ranks(self._scored)), 1.0)
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.mul_(correction)
        self._begin_window()
        self._log("train", self._train_means)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip student and projectors to the same norm, but apart, and log both norms.

        Left to Lightning are clipping by value, which scales nothing, and the older FSDP, which flattens both together.

        Args:
            optimizer: whose parameters they are.
            gradient_clip_val: as in Lightning.
            gradient_clip_algorithm: as in Lightning.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        still_scaled = scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False)
        apart = not still_scaled and not isinstance(self.trainer.strategy, FSDPStrategy)
        by_norm = apart and gradient_clip_algorithm in (None, "norm")
        parts: dict[str, list[nn.Parameter]] = {STUDENT_NORM: [], PROJECTORS_NORM: []}
        projectors = {id(parameter) for parameter in self.distillation.loss_fn.parameters()}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parts[PROJECTORS_NORM if id(parameter) in projectors else STUDENT_NORM].append(parameter)
        if apart:
            limit = checked_max_norm(gradient_clip_val if by_norm else None)
            norms = {f"train_{name}": clip_grad_norm(part, limit) for name, part in parts.items() if part}
            self.log_dict(norms, batch_size=1)
        if not by_norm:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_validation_epoch_start(self) -> None:
        """Begin the means of a validation."""
        self._validation_means = TokenMeans()

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:  # noqa: ARG002
        """Add one batch to the means of a validation.

        Args:
            batch: as in `DSKDLoss.run`.
            batch_idx: its number.
        """
        scored = scored_tokens(batch)
        summed = self.distillation.loss_fn.spec.reduction == "sum"
        # Where weights follow a schedule, by those of one step, or no two validations could be compared.
        output = self.distillation(batch, step=self.distillation.loss_fn.spec.final_step)
        self._validation_means.add(output, scored=scored, divided_by=1 if summed else scored)

    def on_validation_epoch_end(self) -> None:
        """Log the means of a validation."""
        self._log("val", self._validation_means)

    def _log(self, prefix: str, means: TokenMeans) -> None:
        values = means.take(self._sum_over_ranks)
        self.log_dict({f"{prefix}_{name}": value for name, value in values.items()}, batch_size=1)

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        summed: Tensor = self.trainer.strategy.reduce(values.clone(), reduce_op="sum")
        return summed
