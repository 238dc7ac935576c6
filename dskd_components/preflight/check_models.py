"""The models by themselves: heads, precision, devices, modes, what they share."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

from dskd_components.errors import InputError
from dskd_components.models.head import Head
from dskd_components.preflight.report import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dskd_components.preflight.pair import Pair


def check_heads(pair: Pair) -> Iterator[Finding]:
    """Compare each model's logits with those that its head gives."""
    for side, model, _ in pair.models():
        try:
            head = Head.from_model(model)
        except InputError as error:
            yield Finding("error", f"{side} head", str(error).rstrip("."), "build the Head by hand and pass LMStates")
            continue
        extras = [f"scale {head.scale:g}"] if head.scale != 1 else []
        extras += [f"softcap {head.softcap:g}"] if head.softcap else []
        extras += ["a bias"] if head.bias is not None else []
        suffix = f", with {' and '.join(extras)}" if extras else ""
        rows, width = head.weight.shape
        yield Finding("ok", f"{side} head", f"{type(model).__name__}: logits are its own ({rows} x {width}{suffix})")


def check_placement(pair: Pair) -> Iterator[Finding]:
    """Look at devices and precisions."""
    devices = {
        side: Counter(parameter.device for parameter in model.parameters()) for side, model in pair.modules.items()
    }
    for side, found in devices.items():
        if any(device.type == "meta" for device in found):
            yield Finding(
                "error",
                f"{side} device",
                "some of its parameters are on the device 'meta', which holds no numbers (offloaded or not loaded)",
                "load the model whole, onto one device",
            )
    first = {side: found.most_common(1)[0][0] for side, found in devices.items()}
    if first["student"] != first["teacher"]:
        yield Finding(
            "error",
            "devices",
            f"the student is on {first['student']}, the teacher on {first['teacher']}",
            f"move the teacher: teacher.to({str(first['student'])!r})",
        )
    precisions = {}
    for side, model in pair.modules.items():
        dtypes = Counter(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
        precisions[side] = " and ".join(str(dtype).removeprefix("torch.") for dtype, _ in dtypes.most_common())
        if side == "student" and torch.float16 in dtypes:
            yield Finding(
                "warning",
                "student precision",
                "float16 parameters: small gradients vanish, large ones overflow",
                "load the student in bfloat16 or float32, or train with autocast and a gradient scaler",
            )
    text = ", ".join(f"{side} {precisions[side]} on {first[side]}" for side in first)
    yield Finding("ok", "precision", f"{text}; the loss computes in float32")


def check_modes(pair: Pair) -> Iterator[Finding]:
    """Look at training mode, and at what is trained."""
    if pair.teacher.training:
        yield Finding(
            "warning",
            "teacher mode",
            "the teacher is in training mode, so its dropout adds noise to what the student learns from",
            "call teacher.eval()",
        )
    trained = sum(parameter.numel() for parameter in pair.student.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in pair.student.parameters())
    if not trained:
        yield Finding(
            "error",
            "student parameters",
            "none of its parameters requires a gradient, so it cannot learn",
            "call student.requires_grad_(True), or add adapters",
        )
    else:
        yield Finding("ok", "student parameters", f"{trained:,} of {total:,} are trained")
    frozen = not any(parameter.requires_grad for parameter in pair.teacher.parameters())
    yield Finding(
        "ok",
        "teacher parameters",
        "frozen" if frozen else "not marked as frozen; the loss gives them no gradient all the same",
        "" if frozen else "teacher.requires_grad_(False) keeps optimizers and wrappers from taking them up",
    )


def check_sharing(pair: Pair) -> Iterator[Finding]:
    """Look for parameters that both models hold."""
    theirs = {id(parameter) for parameter in pair.teacher.parameters()}
    shared = [name for name, parameter in pair.student.named_parameters() if id(parameter) in theirs]
    if shared:
        yield Finding(
            "error",
            "shared parameters",
            f"student and teacher share {len(shared)} parameters ({shared[0]!r} among them), so the teacher would "
            "change with the student",
            "load the teacher on its own, or copy it: copy.deepcopy(teacher)",
        )
