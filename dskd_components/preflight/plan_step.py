"""From two models on the meta device to the plan of a step: memory and time by component, and what makes it fit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dskd_components.engines.tiled import Tiled
from dskd_components.errors import InputError
from dskd_components.models.positions import has_position_table, position_limit
from dskd_components.preflight.plan import PlanPart, Setup, StepPlan
from dskd_components.preflight.plan_changes import remedies
from dskd_components.preflight.plan_memory import PlannedMemory
from dskd_components.preflight.plan_pair import Models, PlannedPair
from dskd_components.preflight.plan_time import PlannedTime
from dskd_components.preflight.sharding import BUCKET, MASTER, hidden_size_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dskd_components.models.states import Side
    from dskd_components.preflight.device import Device


def plan_step(student: Any, teacher: Any, setup: Setup, device: Device) -> StepPlan:
    """Return what a step takes on each device, without a weight or a number.

    Args:
        student: the student, on the meta device.
        teacher: the teacher, on the meta device.
        setup: how the step is made.
        device: how fast it is; its memory counts where the setup names none.

    Raises:
        InputError: a model is not on the meta device, or cannot be run there, or both are the same object.
        ConfigurationError: the spec cannot be used for this pair.

    Examples:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from dskd_components import DSKDSpec
        >>> from dskd_components.preflight.device import stated_device
        >>> with torch.device("meta"):
        ...     sizes = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        ...     student, teacher = (LlamaForCausalLM(LlamaConfig(hidden_size=size, **sizes)) for size in (32, 64))
        >>> plan = plan_step(student, teacher, Setup(spec=DSKDSpec.preset("dskd")), stated_device("h100"))
        >>> plan.fits, plan.largest.component
        (True, 'loss: ce')
    """
    if student is teacher:
        raise InputError("student, teacher: expected two models, got one and the same.")
    if setup.device_memory is None and device.memory is not None:
        setup = replace(setup, device_memory=device.memory)
    models = Models(student, teacher)
    planned = plan_traced(models, setup, device)
    if planned.fits:
        return planned
    can_checkpoint = bool(getattr(student, "supports_gradient_checkpointing", False))
    found = remedies(
        planned,
        lambda changed: plan_traced(models, changed, device),
        can_checkpoint=can_checkpoint,
        has_width=hidden_size_of(getattr(student, "config", None)) is not None,
    )
    return replace(planned, remedies=tuple(found))


def plan_traced(models: Models, setup: Setup, device: Device) -> StepPlan:
    """Return the plan of a step, without changes that would make it fit.

    Args:
        models: both models, which are traced once for each batch that they are planned with.
        setup: how the step is made.
        device: on what.

    Raises:
        InputError: a model is not on the meta device, or cannot be run there.
        ConfigurationError: the spec cannot be used for this pair.
    """
    pair = PlannedPair(models, setup)
    memory = PlannedMemory(pair, on_cpu=device.on_cpu, accelerator_memory=None if device.on_cpu else device.memory)
    seconds = PlannedTime(pair, device).seconds()
    held = [PlanPart(name, "held", 0.0, int(size)) for name, size in memory.held().items() if size]
    running = [PlanPart(name, "in turn", seconds[name], int(size)) for name, size in memory.in_turn().items()]
    return StepPlan(
        student=pair.student.name,
        teacher=pair.teacher.name,
        parts=(*held, *running),
        setup=setup,
        loss_bytes=int(memory.of_loss()),
        warnings=tuple(_warnings(pair)),
        assumptions=tuple(_assumptions(pair, device)),
    )


def _warnings(pair: PlannedPair) -> Iterator[str]:
    """Say what is legal but very likely not what was meant."""
    student, teacher = pair.student, pair.teacher
    if teacher.numbers < student.numbers:
        yield (
            f"the teacher has {teacher.numbers:,} parameters, fewer than the student's {student.numbers:,}: see "
            "whether the two are swapped"
        )
    if pair.setup.counted_tokens > 1.5 * pair.setup.tokens:
        yield (
            f"a step has one sample of {pair.setup.length:,} tokens a device and micro-batch at least, more than the "
            f"{pair.setup.tokens:,} tokens that were asked for: take fewer micro-batches or shorter samples"
        )
    sides: dict[Side, tuple[Any, int]] = {
        "student": (pair.models.student, pair.setup.length),
        "teacher": (pair.models.teacher, pair.setup.teacher_length),
    }
    for side, (model, length) in sides.items():
        limit = position_limit(model)
        if limit is not None and length > limit:
            outcome = "so it is refused" if has_position_table(model) else "beyond its positions it may predict badly"
            yield (
                f"the {side} has {limit:,} positions, but a sample has {length:,} of its tokens: {outcome}; plan with "
                "shorter samples (--length)"
            )


def _assumptions(pair: PlannedPair, device: Device) -> Iterator[str]:
    """Say what the numbers presume."""
    setup = pair.setup
    other = setup.counted_tokens != setup.tokens
    asked = f"; {setup.tokens:,} were asked for, and whole samples are {setup.counted_tokens:,}" if other else ""
    yield (
        f"batch: {setup.rows} full samples of {setup.length:,} tokens of the student and {setup.teacher_length:,} of "
        f"the teacher a device and micro-batch, without padding, {setup.scored:.0%} of them scored, each with a "
        f"partner{asked}"
    )
    kept = "are computed again for the backward pass" if setup.checkpointing else "are kept"
    scores = "are not" if setup.fused_attention else "are kept, too"
    yield f"activations: they {kept}, as the models' code does; scores of attention {scores}"
    yield device.basis()
    if isinstance(pair.spec.engine, Tiled) and not device.on_cpu:
        yield "memory budget of the loss: it changes memory here and not the time, though small tiles take longer"
    if setup.devices > 1:
        yield (
            f"communication: {device.bandwidth / 1e9:,.3g} GB/s from each device, {device.latency * 1e6:,.3g} us a "
            "collective, not at the same time as computation; where both overlap, a step takes less"
        )
    heads = [f"the {side}'s" for side, spread in pair.spreads.items() if spread.cut_head]
    if heads:
        yield (
            f"heads: {' and '.join(heads)} stays cut over devices, so the engine resharded after the forward pass "
            "(reshard_after_forward=True) gathers again what is outside of blocks"
        )
    if pair.setup.sharding in MASTER:
        size, said = pair.spread.reduce_bucket_size, pair.setup.reduce_bucket_size
        why = (
            ", the square of the student's hidden_size, as a trainer makes it"
            if said == "auto"
            else ', its default (--reduce-bucket-size auto, if a trainer reads "auto" in the file)'
            if said == BUCKET
            else ""
        )
        yield (
            f"gradient buckets: DeepSpeed's reduce_bucket_size is {size:,} numbers{why}; it makes room for all of them "
            "whatever the model's size"
        )
    if pair.has_master:
        yield "optimizer: DeepSpeed keeps master weights and states in float32"
    if not pair.projectors.numbers and pair.spec.directions:
        yield "projectors: maps that are made from the heads in each step are counted in memory, not in time"
    yield "not counted: what an allocator wastes, what libraries and other processes hold, and loading of data"
