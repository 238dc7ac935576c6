"""What a trainer must be like for the loss to be right in it, in words where it is not."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from dskd_components.distributed import world_size
from dskd_components.distributed.gathering import is_in_parts
from dskd_components.errors import ConfigurationError, DSKDWarning, InputError
from dskd_components.integrations.trainer_data import has_labels
from dskd_components.models.wrappers import unwrapped

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import Trainer

TOLERANCE: Final = 1e-3
"""By how much a sum of shares may differ from 1: it is made in float32."""

LOOP_OF_YOUR_OWN = (
    "Wrap dskd_components.integrations.student_with_projectors.StudentWithProjectors in a loop of your own or in "
    "Accelerate instead (docs/how-to/training-loops.md)."
)


def require_hooks(trainer: type, mixin: type) -> None:
    """Refuse a version of the trainer that lacks a method which the mixin overrides, since it would never be called.

    Args:
        trainer: the class that the mixin is for.
        mixin: the mixin.

    Raises:
        ImportError: a method is missing; the message names it.
    """
    own = {
        "__init__",
        "count_scored_tokens",
        "begin_means",
        "_run",
        "_sum_over_ranks",
        "_evaluated",
        "_objective",
        "step_projectors",
    }
    methods = [name for name, value in vars(mixin).items() if callable(value) and name not in own]
    missing = [name for name in methods if not hasattr(trainer, name)]
    if missing:
        raise ImportError(
            f"transformers.Trainer has no {', '.join(missing)}, which {mixin.__name__} needs. It was written for "
            "transformers 5.8 to 5.23; install one of these versions."
        )


def require_plain_set_up(trainer: Trainer) -> None:
    """Refuse settings that the loss would ignore, or with which it would be wrong.

    Args:
        trainer: the trainer, once it is built.

    Raises:
        ConfigurationError: there is one; the message names it and what to do.
    """
    if trainer.compute_loss_func is not None:
        raise ConfigurationError("compute_loss_func: the loss is loss_fn's. Leave compute_loss_func out.")
    if trainer.args.label_smoothing_factor:
        raise ConfigurationError(
            f"label_smoothing_factor={trainer.args.label_smoothing_factor}: the loss has no label smoothing. "
            "Set it to 0."
        )
    if trainer.args.n_gpu > 1:
        raise ConfigurationError(
            f"One process with {trainer.args.n_gpu} GPUs would use torch.nn.DataParallel, which splits batches apart. "
            "Start one process a GPU, by torchrun or `accelerate launch`, or show it one GPU (CUDA_VISIBLE_DEVICES=0)."
        )
    _require_known_engine(trainer)
    sizes = {"tensor": trainer.get_tp_size(), "context": trainer.get_cp_size(), "sequence": trainer.get_sp_size()}
    for name, size in sizes.items():
        if size > 1:
            head = whole_head(trainer.model) if name == "tensor" else ""
            raise ConfigurationError(
                f"{name} parallelism of size {size}: the loss needs whole texts and a whole student on each rank of a "
                f"Trainer.{head} {LOOP_OF_YOUR_OWN}"
            )


def whole_head(student: Any) -> str:
    """Return a sentence about the head of a tensor-parallel student that each rank has whole; of a sharded one nothing.

    Args:
        student: the student.
    """
    head = unwrapped(student).get_output_embeddings()
    weight = getattr(head, "weight", None)
    if weight is None or is_in_parts(weight):
        return ""
    shape = " x ".join(map(str, weight.shape))
    return (
        f" Its head, {shape}, is whole on each rank all the same: the tensor-parallel plan leaves it out, and nothing "
        "but layers is saved. Put it into the plan (lm_head: ColwiseParallel with replicated outputs)."
    )


def _require_known_engine(trainer: Trainer) -> None:
    """Refuse an engine in which the loss would be wrong, and tell of one that is asked for and not there."""
    if getattr(trainer, "is_fsdp_xla_enabled", False):
        raise ConfigurationError(f"FSDP of XLA: the loss cannot read a head that it has flattened. {LOOP_OF_YOUR_OWN}")
    asked = bool(trainer.args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if asked and not trainer.is_fsdp_enabled:
        warnings.warn(
            f"FSDP was asked for, but Accelerate does not shard on {trainer.args.device.type!r}: each of "
            f"{trainer.accelerator.num_processes} processes holds the whole student, as under DistributedDataParallel.",
            DSKDWarning,
            stacklevel=3,
        )
    if trainer.is_fsdp_enabled and trainer.accelerator.state.fsdp_plugin.fsdp_version != 2:
        raise ConfigurationError(
            "FSDP 1 flattens parameters, so the loss cannot read the student's head. Use FSDP2: fsdp_version: 2 in "
            "Accelerate's file (accelerate to-fsdp2 converts one), or fsdp_config={'version': 2}."
        )
    if trainer.is_deepspeed_enabled:
        _require_plain_deepspeed(trainer)
    if world_size() > 1 and trainer.accelerator.num_processes == 1:
        raise ConfigurationError(
            f"{world_size()} processes were started, but Accelerate takes each to be the only one, so each would train "
            "on all samples. It knows DeepSpeed on accelerators alone, and several processes without one by "
            "use_cpu: true (use_cpu=True)."
        )


def _require_plain_deepspeed(trainer: Trainer) -> None:
    if trainer.optimizer is not None or trainer.lr_scheduler is not None:
        raise ConfigurationError(
            "optimizers: under DeepSpeed the trainer makes its own, by `optim` and `lr_scheduler_type`, or by what is "
            "in DeepSpeed's file, and would leave these out. Leave the argument out, or override create_optimizer."
        )
    clipping = trainer.accelerator.state.deepspeed_plugin.hf_ds_config.get_value("gradient_clipping")
    if trainer.args.max_grad_norm and not clipping:
        warnings.warn(
            "DeepSpeed's configuration has no gradient_clipping, so the student's gradient is not clipped; that of the "
            f'projectors is, to max_grad_norm={trainer.args.max_grad_norm:g}. Set "gradient_clipping": "auto" for '
            "both, or max_grad_norm=0 for neither.",
            DSKDWarning,
            stacklevel=4,
        )


def require_whole_projectors(loss_fn: nn.Module) -> None:
    """Refuse projectors that an engine has cut into parts.

    Args:
        loss_fn: the loss.

    Raises:
        ConfigurationError: it has; the message names one and what to do.
    """
    name = next((name for name, parameter in loss_fn.named_parameters() if is_in_parts(parameter)), None)
    if name is not None:
        raise ConfigurationError(
            f"{name!r} of the loss is in parts on several ranks, as in a ZeRO-3 engine or deepspeed.zero.Init(). "
            "How often a projector is read depends on the tokens of a rank, so ranks would wait for one another. Build "
            "the loss outside of zero.Init() and leave it out of every engine: the trainer optimises it beside the "
            "student's, and averages its gradients."
        )


def require_columns(batch: object) -> None:
    """Refuse a batch of which the loss can read nothing.

    Args:
        batch: what is to be trained on.

    Raises:
        InputError: it is no mapping of columns, or has no labels.
    """
    if not has_labels(batch):
        found = f"columns {', '.join(map(repr, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
        raise InputError(
            f"expected a batch with the column 'student_labels' (or 'labels'), got {found}. Give the trainer "
            "data_collator=DualTokenizerCollator(...). If the loader gives prompts, to be written on, override "
            "get_batch_samples and return batches of what was written, with self.count_scored_tokens(batches, device)."
        )


def require_one_batch(trainer: Trainer) -> None:
    """Refuse a micro-batch whose loss would be divided by its own tokens though it is one of several.

    Args:
        trainer: in training, with a count of None, and a loss that is a mean.

    Raises:
        ConfigurationError: there are others in its accumulation window, or on other ranks.
    """
    several = getattr(trainer, "current_gradient_accumulation_steps", 1) > 1
    over_ranks = trainer.accelerator.num_processes > 1 and trainer.args.average_tokens_across_devices
    if trainer.is_in_train and (several or over_ranks):
        raise ConfigurationError(
            "get_batch_samples returned None for the scored tokens of an optimizer step of several micro-batches or "
            "ranks, each of which would be divided by its own. Return batches, "
            "self.count_scored_tokens(batches, device)."
        )


def warn_of_other_count(share: float) -> None:
    """Warn of losses that were divided by the tokens of other batches than those that were trained on.

    Args:
        share: tokens that were trained on, by those that were counted.

    Examples:
        >>> warn_of_other_count(1.0)
    """
    if abs(share - 1) > TOLERANCE:
        warnings.warn(
            f"The loss was divided by a count of other batches: {share:.4g} tokens were trained on for each that was "
            "counted. Batches that get_batch_samples replaces are to be counted again: return batches, "
            "self.count_scored_tokens(batches, device).",
            DSKDWarning,
            stacklevel=2,
        )


def require_in_optimizer(optimizer: torch.optim.Optimizer, loss_fn: nn.Module) -> None:
    """Refuse an optimizer that would leave trainable parameters of the loss as they are.

    Args:
        optimizer: given by the user.
        loss_fn: the loss.

    Raises:
        ConfigurationError: one is missing; the message names it.
    """
    optimised = _optimised(optimizer)
    for name, parameter in loss_fn.named_parameters():
        if parameter.requires_grad and id(parameter) not in optimised:
            raise ConfigurationError(
                f"optimizers: the optimizer has no parameter {name!r} of the loss, so it would never be trained. Build "
                "it from [*student_groups, *loss_fn.param_groups(lr=...)], after loss_fn is on its device."
            )


def require_not_in_optimizer(optimizer: torch.optim.Optimizer, teacher: nn.Module) -> None:
    """Refuse an optimizer that has parameters of the teacher.

    Args:
        optimizer: of the student.
        teacher: the teacher.

    Raises:
        ConfigurationError: it has one; the message names it.
    """
    optimised = _optimised(optimizer)
    for name, parameter in teacher.named_parameters():
        if id(parameter) in optimised:
            raise ConfigurationError(
                f"optimizers: the optimizer has the teacher's parameter {name!r}. The teacher is a constant; leave its "
                "parameters out."
            )


def _optimised(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
