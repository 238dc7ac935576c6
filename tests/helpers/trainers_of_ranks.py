"""Trainers under the engines that launchers set up, on processes without an accelerator."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from accelerate.state import AcceleratorState, DistributedType, PartialState
from peft import LoraConfig, get_peft_model

from examples.tiny import Pair, tiny_pair
from examples.trainer import new_trainer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dskd_components.integrations.transformers import DSKDTrainer

os.environ["DS_ACCELERATOR"] = "cpu"

ENGINES = ("DDP", "FSDP2", "ZeRO-1", "ZeRO-2", "ZeRO-3")


def options_of(engine: str) -> dict[str, Any]:
    """The arguments by which a trainer sets up an engine, as users have them in files."""
    if engine == "DDP":
        return {"use_cpu": True, "ddp_backend": "gloo"}
    if engine == "FSDP2":
        return {"fsdp": True, "fsdp_config": {"version": 2, "reshard_after_forward": True}}
    zero: dict[str, Any] = {"stage": int(engine[-1])}
    if engine == "ZeRO-3":
        # Small parameters would never be partitioned otherwise.
        zero |= {"stage3_param_persistence_threshold": 0, "stage3_gather_16bit_weights_on_model_save": True}
    names = "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"
    return {"deepspeed": {**dict.fromkeys(names, "auto"), "zero_optimization": zero}}


@contextmanager
def engine_on_cpu(engine: str, *, launched: bool = False) -> Iterator[None]:
    """Tell Accelerate, which looks for accelerators before it sets up FSDP2 or DeepSpeed, that gloo connects two.

    Nothing else is done for it: files, plugins, engines and wrappers are its own.

    Args:
        engine: of `ENGINES`.
        launched: whether a launcher has started this process, and has put what it wants into the environment.
    """
    kind = DistributedType.MULTI_GPU if engine == "FSDP2" else DistributedType.MULTI_CPU
    with pytest.MonkeyPatch.context() as patch:
        AcceleratorState._reset_state(reset_partial_state=True)
        # What an engine before has left.
        for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING"):
            if not launched:
                patch.delenv(name, raising=False)
        if engine == "DDP":
            patch.setenv("ACCELERATE_USE_CPU", "1")
        else:
            patch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")
            patch.setattr(PartialState, "_prepare_backend", lambda *_, **__: ("gloo", kind))
        if engine.startswith("ZeRO"):
            if launched:
                torch.distributed.init_process_group("gloo")
            from tests.helpers.engines_of_deepspeed import start_deepspeed

            start_deepspeed()
        yield
        AcceleratorState._reset_state(reset_partial_state=True)


def pair_of_rank(rank: int, *, lora: bool = False) -> Pair:
    """Models and loss; projectors differ between ranks at first: something must make them one."""
    pair = tiny_pair()
    with torch.no_grad():
        for parameter in pair.loss_fn.parameters():
            parameter.mul_(1 + rank)
    if not lora:
        return pair
    torch.manual_seed(0)
    adapters = LoraConfig(r=4, target_modules=["c_attn"], init_lora_weights=False, fan_in_fan_out=True)
    return replace(pair, student=get_peft_model(pair.student, adapters))


def trainer_of(engine: str, pair: Pair, folder: str | Path, **options: Any) -> DSKDTrainer:
    """A trainer under an engine, with half of the samples of a step on each rank; without one, one process with all."""
    own = {"per_device_train_batch_size": 1} | options_of(engine) if engine else {"use_cpu": True}
    schedule = {"lr_scheduler_type": "linear", "log_level": "error"}
    return new_trainer(pair, folder, **schedule | own | options)


def curve_of(trainer: DSKDTrainer) -> list[dict[str, float]]:
    """What it has logged of each step."""
    names = "loss", "ce", "t2s_kd", "grad_norm", "projector_grad_norm"
    return [{name: entry[name] for name in names} for entry in trainer.state.log_history if "loss" in entry]


def environment_of(file: Path) -> dict[str, str]:
    """What `accelerate launch` puts into the environment of the processes that it starts by a file."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    arguments = launch_command_parser().parse_args(["--config_file", str(file), "train.py"])
    arguments, defaults, _ = _validate_launch_command(arguments)
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = list(defaults.deepspeed_config)
        _, environment = prepare_deepspeed_cmd_env(arguments)
    else:
        environment = prepare_multi_gpu_env(arguments)
    return {name: value for name, value in environment.items() if os.environ.get(name) != value}
