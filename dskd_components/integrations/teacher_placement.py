"""Where a trainer's teacher lies: whole on each rank, or in parts, as the engine has the student."""

from __future__ import annotations

from copy import deepcopy
from importlib import import_module
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.distributed as dist
from torch import nn

from dskd_components.distributed import synchronise, world_size
from dskd_components.distributed.gathering import is_in_parts, is_partitioned
from dskd_components.errors import ConfigurationError
from dskd_components.models.offline_teacher import OfflineTeacher
from dskd_components.models.wrappers import unwrapped

if TYPE_CHECKING:
    from transformers import Trainer

OF_TRAINING: Final = ("optimizer", "scheduler", "gradient_clipping", "gradient_accumulation_steps", "train_batch_size")
"""What an engine that is never trained does not need of a configuration of DeepSpeed."""


def place_teacher(trainer: Trainer, teacher: nn.Module, *, shard: bool | None) -> nn.Module:
    """Put a teacher where the trainer can run it, in evaluation mode and without gradients.

    Args:
        trainer: once it has its accelerator.
        teacher: the teacher, a store of it, or one that is in parts already.
        shard: whether the ranks share one teacher: by `fully_shard` under FSDP2, in parts that are gathered layer by
            layer under ZeRO-3. None: as the student is. Stores and quantised teachers are whole on each rank.

    Returns:
        The teacher, or an engine around it.

    Raises:
        ConfigurationError: it is to be shared, but nothing here shards; or it is quantised, and on another device.
    """
    _set_to_evaluation(teacher.requires_grad_(False))
    stage = zero_stage(trainer)
    by_fsdp = trainer.is_fsdp_enabled
    if shard and not by_fsdp and stage != 3:
        raise ConfigurationError(
            "shard_teacher=True: neither FSDP2 nor ZeRO-3 is on, and nothing else of a trainer's shards models. Leave "
            "it out: the teacher is whole on each rank."
        )
    tensors = list(chain(teacher.parameters(), teacher.buffers()))
    is_model = not isinstance(teacher, OfflineTeacher) and not is_quantised(teacher)
    wanted = is_model and shard is not False
    if stage == 3 and not _is_engine(teacher) and (wanted or any(map(is_partitioned, tensors))):
        return _in_zero3(trainer, teacher)
    if any(map(is_in_parts, tensors)):
        return teacher
    if by_fsdp and wanted:
        return _fully_sharded(trainer, teacher)
    if any(tensor.device != trainer.args.device for tensor in tensors):
        _require_movable(teacher, trainer.args.device)
        teacher.to(trainer.args.device)
    return teacher


def zero_stage(trainer: Trainer) -> int | None:
    """Return the stage of ZeRO, None without DeepSpeed.

    Args:
        trainer: once it has its accelerator.
    """
    return trainer.accelerator.state.deepspeed_plugin.zero_stage if trainer.is_deepspeed_enabled else None


def is_quantised(model: nn.Module) -> bool:
    """Return whether a model's weights are of 8 or 4 bits, by any method that `transformers` knows."""
    inner: Any = model
    return getattr(inner, "quantization_method", None) is not None


def load_from_first_rank(trainer: Trainer, *models: nn.Module) -> None:
    """Give all ranks the weights of models that were loaded on the first rank alone.

    With ``cpu_ram_efficient_loading``, `from_pretrained` leaves the parameters of the others on the device ``meta``.
    FSDP2 spreads those of the student, but a loss is built from the weights of both models.

    Args:
        trainer: once it has its accelerator.
        *models: on all ranks the same ones.
    """
    if not trainer.is_fsdp_enabled or world_size() == 1:
        return
    for model in models:
        empty: list[bool] = [False] * world_size()
        dist.all_gather_object(empty, any(parameter.is_meta for parameter in model.parameters()))
        if not any(empty):
            continue
        if empty[dist.get_rank()]:
            model.to_empty(device="cpu")
            inner: Any = unwrapped(model)  # type: ignore[arg-type]
            inner.tie_weights()
        synchronise(model)


def _is_engine(model: nn.Module) -> bool:
    return hasattr(model, "module") and hasattr(model, "zero_optimization_stage")


def _set_to_evaluation(model: nn.Module) -> nn.Module:
    model.eval()
    model.training = False  # an engine of DeepSpeed sets that of its module alone
    return model


def _in_zero3(trainer: Trainer, teacher: nn.Module) -> nn.Module:
    """Return an engine that holds the teacher in parts and never trains it, by the run's own configuration."""
    configuration = without_auto(deepcopy(trainer.accelerator.state.deepspeed_plugin.deepspeed_config))
    configuration = {name: value for name, value in configuration.items() if name not in OF_TRAINING}
    configuration["zero_optimization"].pop("offload_optimizer", None)
    configuration.setdefault("train_micro_batch_size_per_gpu", trainer.args.per_device_train_batch_size)
    engine, *_ = import_module("deepspeed").initialize(model=teacher, config=configuration)
    return _set_to_evaluation(engine)


def without_auto(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of DeepSpeed without what is filled in later, for DeepSpeed's own values instead.

    Examples:
        >>> without_auto({"a": "auto", "b": {"c": "auto", "d": 1}})
        {'b': {'d': 1}}
    """
    return {
        name: without_auto(value) if isinstance(value, dict) else value
        for name, value in configuration.items()
        if value != "auto"
    }


def _fully_sharded(trainer: Trainer, teacher: nn.Module) -> nn.Module:
    """Shard a teacher in place: each layer, and what is left."""
    from torch.distributed.fsdp import fully_shard

    accelerator: Any = trainer.accelerator
    mesh = getattr(accelerator, "torch_device_mesh", None)
    options: dict[str, Any] = {
        "reshard_after_forward": True,
        "offload_policy": accelerator.state.fsdp_plugin.cpu_offload,
    }
    if mesh is not None:
        options["mesh"] = mesh[tuple(accelerator.parallelism_config.fsdp_dim_names)]
    inner: Any = unwrapped(teacher)  # type: ignore[arg-type]
    kinds = set(getattr(inner, "_no_split_modules", None) or ())
    for module in teacher.modules():
        if type(module).__name__ in kinds:
            fully_shard(module, **options)
    fully_shard(teacher, **options)
    return teacher


def _require_movable(teacher: nn.Module, device: torch.device) -> None:
    if is_quantised(teacher):
        found = next(teacher.parameters()).device
        raise ConfigurationError(
            f"The teacher is quantised and on {found}, this rank trains on {device}, and quantised weights are not "
            "moved. Load it there: from_pretrained(..., device_map={'': PartialState().device}), with "
            "accelerate.PartialState."
        )
