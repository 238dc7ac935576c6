"""``dskd plan``: what a step of training will take on each device, from two configurations."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dskd_components.cli.doctor import read_spec
from dskd_components.cli.pretrained import load_on_meta
from dskd_components.cli.store import count_of
from dskd_components.cli.terminal import console, plain, plain_json
from dskd_components.errors import ConfigurationError, did_you_mean
from dskd_components.spec.multi_teacher import MultiTeacherSpec

if TYPE_CHECKING:
    from dskd_components.preflight.device import Device
    from dskd_components.preflight.sharding import BucketSize

DTYPES: Final = ("bfloat16", "float16", "float32")
BYTES: Final = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}

LEAST_MEMORY: Final = 2**20
"""Bytes below which a size lacks its unit."""


def plan(
    student: Annotated[str, typer.Argument(help="Folder with the student's config.json.", show_default=False)],
    teacher: Annotated[str, typer.Argument(help="Folder with the teacher's config.json.", show_default=False)],
    spec: Annotated[str, typer.Option("--spec", help="A spec file or a preset.")] = "dskd-cma",
    tokens: Annotated[
        str, typer.Option("--tokens", help="Student tokens in a step, on all devices: 8192, 64k.")
    ] = "8192",
    length: Annotated[int, typer.Option("--length", help="Tokens of a sample of the student.")] = 1024,
    teacher_tokens: Annotated[
        float, typer.Option("--teacher-tokens", help="The teacher's tokens for each of the student's.")
    ] = 1.0,
    scored: Annotated[float, typer.Option("--scored", help="Which share of the tokens is scored.")] = 1.0,
    devices: Annotated[int, typer.Option("--devices", help="How many devices there are.")] = 1,
    sharding: Annotated[
        str | None,
        typer.Option(
            "--sharding",
            help="ddp, zero1, zero2, zero3 or fsdp2; otherwise ddp, or none on one device.",
            show_default=False,
        ),
    ] = None,
    teacher_place: Annotated[
        str, typer.Option("--teacher", help="replicated, sharded, or a store of its states.")
    ] = "replicated",
    dtype: Annotated[str, typer.Option("--dtype", help="Of the student: bfloat16, float16 or float32.")] = "bfloat16",
    teacher_dtype: Annotated[str, typer.Option("--teacher-dtype", help="Of the teacher.")] = "bfloat16",
    bucket: Annotated[
        str | None,
        typer.Option(
            "--reduce-bucket-size",
            help="Of DeepSpeed's file, for ZeRO: 50M; or auto, as trainers fill it in; otherwise 500M.",
            show_default=False,
        ),
    ] = None,
    optimizer: Annotated[str, typer.Option("--optimizer", help="adamw, adam, sgd-momentum or sgd.")] = "adamw",
    accumulation: Annotated[int, typer.Option("--accumulation", help="Micro-batches of a step, on each device.")] = 1,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Activations are computed again for the backward pass.")
    ] = False,
    attention: Annotated[
        str, typer.Option("--attention", help="sdpa, which keeps no scores, or eager, which keeps them.")
    ] = "sdpa",
    memory_budget: Annotated[
        float | None,
        typer.Option("--memory-budget", help="Of the engine tiled, in MiB; otherwise the spec's.", show_default=False),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="h100, h200, a100-80gb, a100-40gb; or cpu, which is measured.")
    ] = "h100",
    device_memory: Annotated[
        str | None, typer.Option("--device-memory", help="Of each device: 80G, 40GiB.", show_default=False)
    ] = None,
    flops: Annotated[
        float | None,
        typer.Option(
            "--flops", help="A second, of a device's products in the models' precision: 989e12.", show_default=False
        ),
    ] = None,
    float32_flops: Annotated[
        float | None, typer.Option("--float32-flops", help="The same in float32.", show_default=False)
    ] = None,
    efficiency: Annotated[
        float | None, typer.Option("--efficiency", help="Which share of these is reached: 0.4.", show_default=False)
    ] = None,
    memory_bandwidth: Annotated[
        float | None, typer.Option("--memory-bandwidth", help="Of a device, in bytes a second.", show_default=False)
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option("--bandwidth", help="Bytes a second that each device sends.", show_default=False)
    ] = None,
    latency: Annotated[
        float | None,
        typer.Option("--latency", help="Seconds of a collective, however small.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: JSON.")] = False,
) -> None:
    """Say what a step takes on each device, before there are weights. The exit code is 1 if it does not fit."""
    from dskd_components.preflight.plan import Setup
    from dskd_components.preflight.plan_step import plan_step
    from dskd_components.preflight.sharding import require_sharding, require_teacher_place

    asked = read_spec(spec)
    if isinstance(asked, MultiTeacherSpec):
        raise ConfigurationError(
            f"--spec {spec}: expected the spec of one teacher, got one of several. Plan with the largest of them, by a "
            "spec of its own."
        )
    setup = Setup(
        spec=asked,
        tokens=count_of("--tokens", tokens),
        length=length,
        teacher_tokens=teacher_tokens,
        scored=scored,
        devices=devices,
        sharding=require_sharding(sharding or ("ddp" if devices > 1 else "none")),
        teacher=require_teacher_place(teacher_place),
        accumulation=accumulation,
        checkpointing=checkpointing,
        fused_attention=_one_of("--attention", attention, ("sdpa", "eager")) == "sdpa",
        optimizer=optimizer,
        device_memory=None if device_memory is None else memory_size(device_memory),
    )
    if bucket is not None:
        size: BucketSize = "auto" if bucket == "auto" else count_of("--reduce-bucket-size", bucket)
        setup = replace(setup, reduce_bucket_size=size)
    if memory_budget is not None:
        setup = setup.with_budget(memory_budget)
    rates = {
        "flops": flops,
        "float32_flops": float32_flops,
        "efficiency": efficiency,
        "memory_bandwidth": memory_bandwidth,
        "bandwidth": bandwidth,
        "latency": latency,
    }
    where = _device(device, {name: value for name, value in rates.items() if value is not None}, devices)
    pair = [
        load_on_meta(source, _one_of(option, precision, DTYPES), attention)
        for source, option, precision in ((student, "--dtype", dtype), (teacher, "--teacher-dtype", teacher_dtype))
    ]
    planned = plan_step(pair[0], pair[1], setup, where)
    if as_json:
        plain_json(planned.to_dict())
    elif console().is_terminal:
        console().print(planned)
    else:
        plain(planned.to_text())
    if not planned.fits:
        raise typer.Exit(1)


def _device(name: str, rates: dict[str, float], devices: int) -> Device:
    from dskd_components.preflight.device import ThisMachine, stated_device
    from dskd_components.preflight.link import local_link

    for option, value in rates.items():
        if not 0 < value < math.inf or (option == "efficiency" and value > 1):
            expected = "a share above 0 and up to 1" if option == "efficiency" else "a positive number"
            raise ConfigurationError(f"--{option.replace('_', '-')}: expected {expected}, got {value:g}.")
    if name == "cpu":
        others = [option for option in rates if option not in ("bandwidth", "latency")]
        if others:
            raise ConfigurationError(
                f"--{others[0].replace('_', '-')}: the machine at hand is measured. Leave it out, or name another "
                "--device."
            )
        measured = vars(local_link()) if devices > 1 and len(rates) < 2 else {}
        return ThisMachine(**measured | rates)
    found = stated_device(name)
    return replace(found, **rates, given=tuple(rates)) if rates else found  # type: ignore[arg-type]


def _one_of(option: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ConfigurationError(f"{option} {value}: expected one of {', '.join(known)}{did_you_mean(value, known)}.")
    return value


def memory_size(text: str) -> int:
    """Return a number of bytes.

    Args:
        text: as 80G, 80GB or 74.5GiB.

    Raises:
        ConfigurationError: it is none.

    Examples:
        >>> memory_size("80G"), memory_size("1GiB")
        (80000000000, 1073741824)
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?i?)b?\s*", text, re.IGNORECASE)
    if found is None or found[2].lower() not in BYTES:
        raise ConfigurationError(f"--device-memory {text}: expected a size such as 80G, 40GB or 24GiB.")
    size = round(float(found[1]) * BYTES[found[2].lower()])
    if 0 < size < LEAST_MEMORY:
        raise ConfigurationError(f"--device-memory {text}: expected a size with its unit, such as 24GiB.")
    return size
