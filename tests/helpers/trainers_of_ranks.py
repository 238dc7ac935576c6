"""Trainers under the engines that launchers set up, on processes without an accelerator."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from accelerate.state import AcceleratorState, DistributedType, PartialState

if TYPE_CHECKING:
    from collections.abc import Iterator

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
def engine_on_cpu(engine: str) -> Iterator[None]:
    """Tell Accelerate, which looks for accelerators before it sets up FSDP2 or DeepSpeed, that gloo connects two."""
    kind = DistributedType.MULTI_GPU if engine == "FSDP2" else DistributedType.MULTI_CPU
    with pytest.MonkeyPatch.context() as patch:
        AcceleratorState._reset_state(reset_partial_state=True)
        if engine == "DDP":
            patch.setenv("ACCELERATE_USE_CPU", "1")
        else:
            patch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")
            patch.setattr(PartialState, "_prepare_backend", lambda *_, **__: ("gloo", kind))
        if engine.startswith("ZeRO"):
            from tests.helpers.engines_of_deepspeed import start_deepspeed

            start_deepspeed()
        yield
        AcceleratorState._reset_state(reset_partial_state=True)
