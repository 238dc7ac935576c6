"""Parity with the released implementations (values and gradients)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dskd_components import DSKDLoss, DSKDSpec, Head, LMStates, get_distance
from dskd_components.engines.vocabulary_overlap import KnownOverlap
from dskd_components.loss.build import projector_heads
from tests.helpers.golden_files import DISTANCES, cases, tensors

# The released JS adds 1e-9 inside its logarithms.
VALUE, GRADIENT, JS = 1e-5, 1e-4, 1e-4


def close(found: Tensor, expected: Tensor, relative: float) -> None:
    error = (found.detach() - expected).abs().max().item()
    scale = expected.abs().max().item()
    assert error <= relative * scale, f"off by {error / max(scale, 1e-30):.2e} of the largest value"


def identify(case: dict[str, Any]) -> str:
    return str(case["name"])


@pytest.mark.parametrize("released", DISTANCES)
@pytest.mark.parametrize("case", cases("distances"), ids=identify)
def test_distance(case: dict[str, Any], released: str) -> None:
    data = tensors(case)
    fields = dict(DISTANCES[released])
    distance = get_distance(fields.pop("name"), **fields)
    student_logits = data["student_logits"].requires_grad_()
    temperature, teacher_temperature = case["temperature"], case["teacher_temperature"]
    values = distance(
        (student_logits / temperature).log_softmax(-1),
        (data["teacher_logits"] / (temperature * teacher_temperature)).log_softmax(-1),
    )
    values.sum().backward()
    assert student_logits.grad is not None
    loose = released == "js_divergence"
    close(values, data[f"{released}.value"], JS if loose else VALUE)
    close(student_logits.grad, data[f"{released}.grad"], GRADIENT)


def leaf(data: dict[str, Tensor], name: str) -> Tensor:
    return data[name].clone().requires_grad_()


def check_terms(out: Any, data: dict[str, Tensor], names: list[str], relative: float) -> None:
    for name in names:
        close(out.terms[name], data[name], relative)


@pytest.mark.parametrize("case", cases("dskd"), ids=identify)
def test_dskd(case: dict[str, Any]) -> None:
    data = tensors(case)
    spec = DSKDSpec.preset(
        "dskd",
        distance=DISTANCES[case["distance"]],
        temperature=case["temperature"],
        kd_rate=case["kd_rate"],
        reduction="sum",
    )
    loss_fn = DSKDLoss(spec, student_hidden_size=16, teacher_hidden_size=24)
    loss_fn.load_state_dict(
        {
            f"projectors.{direction}.{name}": data[f"{direction}.{name}"]
            for direction in ("t2s", "s2t")
            for name in ("weight", "bias")
        }
    )
    hidden, head = leaf(data, "student_hidden"), leaf(data, "student_head")
    out = loss_fn(
        LMStates(hidden_states=hidden, targets=data["labels"], head=Head(head)),
        LMStates(hidden_states=data["teacher_hidden"], targets=data["labels"], head=Head(data["teacher_head"])),
    )
    out.loss.backward()
    check_terms(out, data, ["ce", "t2s_ce", "s2t_kd"], VALUE)
    check_terms(out, data, ["t2s_kd"], JS if case["distance"] == "js_divergence" else VALUE)
    close(out.loss, data["loss"], VALUE)
    close(hidden.grad, data["grad.student_hidden"], GRADIENT)
    close(head.grad, data["grad.student_head"], GRADIENT)
    for direction in ("t2s", "s2t"):
        close(loss_fn.projectors[direction].weight.grad, data[f"grad.{direction}.weight"], GRADIENT)


@pytest.mark.parametrize("case", cases("cma"), ids=identify)
def test_dskd_cma(case: dict[str, Any]) -> None:
    data = tensors(case)
    spec = DSKDSpec.preset(
        "dskd-cma",
        distance=DISTANCES[case["distance"]],
        temperature=case["temperature"],
        teacher_temperature=case["teacher_temperature"],
        kd_rate=case["kd_rate"],
        reduction="sum",
    )
    loss_fn = DSKDLoss(spec, student_hidden_size=16, teacher_hidden_size=24)
    parameters = {
        "projectors.t2s": "t2s",
        "projectors.s2t": "s2t",
        "aligner.query": "query",
    }
    loss_fn.load_state_dict(
        {
            f"{ours}.{name}": data[f"{theirs}.{name}"]
            for ours, theirs in parameters.items()
            for name in ("weight", "bias")
        }
    )
    hidden, head = leaf(data, "student_hidden"), leaf(data, "student_head")
    out = loss_fn(
        LMStates(
            hidden_states=hidden,
            targets=data["labels"],
            input_ids=data["student_input_ids"],
            head=Head(head),
            embedding=data["student_embedding"],
        ),
        LMStates(
            hidden_states=data["teacher_hidden"],
            targets=data["teacher_labels"],
            input_ids=data["teacher_input_ids"],
            head=Head(data["teacher_head"]),
            embedding=data["teacher_embedding"],
        ),
    )
    out.loss.backward()
    check_terms(out, data, ["ce", "t2s_ce", "t2s_kd", "s2t_kd"], VALUE)
    close(out.loss, data["loss"], VALUE)
    close(hidden.grad, data["grad.student_hidden"], GRADIENT)
    close(head.grad, data["grad.student_head"], GRADIENT)
    named = dict(loss_fn.named_parameters())
    for ours, theirs in parameters.items():
        for name in ("weight", "bias"):
            close(named[f"{ours}.{name}"].grad, data[f"grad.{theirs}.{name}"], GRADIENT)


@pytest.mark.parametrize("case", cases("v2"), ids=identify)
def test_dskd_v2(case: dict[str, Any]) -> None:
    data = tensors(case)
    # Its reference loss is the distillation part alone.
    spec = DSKDSpec.preset(
        "dskd-v2", distance=DISTANCES[case["distance"]], temperature=case["temperature"], kd_rate=1.0
    )
    hidden = leaf(data, "student_hidden")
    student_head, teacher_head = Head(data["student_head"]), Head(data["teacher_head"])
    loss_fn = DSKDLoss(
        spec,
        student_hidden_size=16,
        teacher_hidden_size=24,
        student_head=student_head,
        teacher_head=teacher_head,
    )
    student = LMStates(hidden_states=hidden, targets=data["labels"], head=student_head)
    teacher = LMStates(hidden_states=data["teacher_hidden"], targets=data["labels"], head=teacher_head)
    t2s, s2t = loss_fn.projectors["t2s"], loss_fn.projectors["s2t"]
    close(t2s.weight, data["t2s_init"], VALUE)
    close(
        s2t.matrix(
            projector_heads(student_head, teacher_head, KnownOverlap().of(student_head, teacher_head, None, None))[
                "s2t"
            ],
            torch.float32,
        ),
        data["s2t_matrix"],
        VALUE,
    )

    out = loss_fn(student, teacher)
    out.loss.backward()
    check_terms(out, data, ["t2s_ce", "t2s_kd", "s2t_kd"], VALUE)
    close(out.loss, data["kd"], VALUE)
    assert out.metrics["t2s_agreement"].item() == pytest.approx(data["t2s_agreement"].item())
    close(hidden.grad, data["grad.student_hidden"], GRADIENT)
    close(t2s.weight.grad, data["grad.t2s.weight"], GRADIENT)
