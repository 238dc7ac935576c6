"""Whether two models can be used: heads that are understood, rows that do not leak, predictions better than chance."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn import functional as F

from dskd_components.errors import InputError
from dskd_components.models.head import Head
from dskd_components.models.loading import is_offloaded
from dskd_components.models.packing import leak_tolerance, packing_leaks
from dskd_components.models.positions import position_limit
from dskd_components.models.run_model import input_embedding
from dskd_components.preflight.report import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dskd_components.preflight.pair import Pair


def check_heads(pair: Pair) -> Iterator[Finding]:
    """Compare each model's logits with those that its head gives."""
    for side, model, _ in pair.loaded_models():
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
    for side, model, _ in pair.models():
        problem = pair.unloaded[side]
        if problem is not None:
            yield Finding("error", f"{side} device", problem.found, problem.advice)
        elif is_offloaded(model):
            yield Finding(
                "warning",
                f"{side} device",
                "some of its layers are offloaded, and fetched at each call, which takes time at each step",
                "load it whole, onto one device, if there is room",
            )
    # Offloaded layers are on the device 'meta' between calls, which is nobody's place.
    meta = torch.device("meta")
    first = {
        side: next((device for device, _ in found.most_common() if device != meta), meta)
        for side, found in devices.items()
    }
    if first["student"] != first["teacher"] and not any(pair.unloaded.values()):
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


def check_packing(pair: Pair) -> Iterator[Finding]:
    """Run each model on two samples, packed into a row and apart."""
    advice = "collate with packing=False, or train with an attention that reads position_ids"
    for side, model, _ in pair.loaded_models():
        try:
            leak = packing_leaks(model)
        except InputError as error:
            yield Finding("warning", f"{side} packing", str(error).rstrip("."), advice)
            continue
        if leak <= leak_tolerance(next(model.parameters()).dtype):
            yield Finding("ok", f"{side} packing", "samples of a packed row do not see one another")
        else:
            yield Finding(
                "warning",
                f"{side} packing",
                f"samples of a packed row see one another (states differ by up to {leak:.2g}), so packed batches will "
                "be refused",
                advice,
            )


LONGEST: Final = 256
"""Tokens that are read of a text."""

PREDICTED: Final = 32
"""How many texts are predicted, at most."""


def check_predictions(pair: Pair) -> Iterator[Finding]:
    """Measure bits a byte of both models, which compare across tokenizers."""
    if not pair.has_both_tokenizers:
        return
    if any(pair.unloaded.values()):
        return
    if any(max(tokenizer.get_vocab().values()) >= len(input_embedding(model)) for _, model, tokenizer in pair.models()):
        return  # found with the vocabularies; on a GPU an id without a row would end the process
    found = {}
    for side, model, tokenizer in pair.models():
        texts = pair.texts[:: math.ceil(len(pair.texts) / PREDICTED)]
        nats, tokens, size = _predicted(model, tokenizer, texts)
        if not tokens:
            return
        found[side] = nats / math.log(2) / size
        if side == "teacher" and nats / tokens > math.log(len(tokenizer.get_vocab())):
            yield Finding(
                "warning",
                "teacher predictions",
                f"it predicts the texts worse than chance ({nats / tokens:.1f} nats a token)",
                "make sure that its weights are trained ones and that the tokenizer is its own",
            )
    text = f"student {found['student']:.2f}, teacher {found['teacher']:.2f} bits a byte of the texts"
    if found["teacher"] >= found["student"]:
        advice = "make sure that student and teacher are not mixed up, or try texts of the kind to be learned"
        yield Finding("warning", "predictions", f"{text}: the teacher is no better than the student", advice)
    else:
        yield Finding("ok", "predictions", text)


@torch.no_grad()
def _predicted(model: Any, tokenizer: Any, texts: Sequence[str]) -> tuple[float, int, int]:
    """Return the sum of negative log-probabilities, the number of predicted tokens, and the bytes of these."""
    nats, tokens, size = 0.0, 0, 0
    device, limit = input_embedding(model).device, position_limit(model)
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"][:, : min(LONGEST, limit or LONGEST)].to(device)
        if ids.shape[1] < 2:
            continue
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        nats += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        tokens += ids.shape[1] - 1
        size += len(tokenizer.decode(ids[0, 1:], skip_special_tokens=True).encode())
    return nats, tokens, max(size, 1)
