"""How far bf16 gradients are from float64 ones on the same rounded inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.loss_step import contestants

if TYPE_CHECKING:
    import torch

    from benchmarks.loss_step.case import Case
    from dskd_components import LMStates


def gradient_errors(case: Case) -> dict[str, Any]:
    """Return loss and relative gradient error of the library and of Liger, against this library in float64."""
    student, teacher = case.states()
    expected_loss, expected = _outcome(case, "tiled", _double(student), _double(teacher))
    found = {}
    for name in ("tiled", "half gradients", "Liger eager"):
        loss, gradient = _outcome(case, name, student, teacher)
        found[name] = {
            "loss": float(loss),
            "relative_loss_error": float((loss.double() - expected_loss).abs() / expected_loss),
            "relative_gradient_error": float((gradient.double() - expected).norm() / expected.norm()),
        }
    return {"case": case.label, "float64_loss": float(expected_loss), "contestants": found}


def _outcome(case: Case, name: str, student: LMStates, teacher: LMStates) -> tuple[torch.Tensor, torch.Tensor]:
    if name.startswith("Liger"):
        loss = contestants.liger(student, teacher, compiled=False)()
    else:
        loss = contestants.library(case, name, student, teacher)()
    assert student.hidden_states.grad is not None
    return loss, student.hidden_states.grad.clone()


def _double(states: LMStates) -> LMStates:
    weight = states.head.weight.detach().double().requires_grad_(states.head.weight.requires_grad)
    hidden = states.hidden_states.detach().double().requires_grad_(states.hidden_states.requires_grad)
    return replace(states, hidden_states=hidden, head=replace(states.head, weight=weight))
