"""Looking leaves everything as it was, and what fails is a finding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dskd_components import DSKDLoss
from dskd_components.preflight import StepCost
from tests.helpers.models import TEXTS
from tests.helpers.pairs import finding, look, sound_pair

if TYPE_CHECKING:
    from dskd_components.preflight import PreflightReport


def test_no_tensor_gradient_mode_or_generator_is_changed() -> None:
    pair = sound_pair()
    student, teacher = pair["student"].train(), pair["teacher"]
    student.model.layers[0].eval()
    student.register_buffer("seen", torch.tensor([3.0]))
    for number, parameter in enumerate(student.parameters()):
        parameter.grad = torch.full_like(parameter, float(number)) if number % 2 else None
    models = (student, teacher)
    before = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models]
    modes = [[module.training for module in model.modules()] for model in models]
    gradients = [None if each.grad is None else each.grad.clone() for each in student.parameters()]
    asked = [[parameter.requires_grad for parameter in model.parameters()] for model in models]
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    # Not by `look`, which seeds the generator for models of its own.
    assert DSKDLoss.preflight(**pair, texts=TEXTS, tokens_per_step=64).costs
    assert torch.equal(torch.random.get_rng_state(), state)
    assert modes == [[module.training for module in model.modules()] for model in models]
    assert asked == [[parameter.requires_grad for parameter in model.parameters()] for model in models]
    for model, tensors in zip(models, before, strict=True):
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    for parameter, gradient in zip(student.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)  # type: ignore[arg-type]
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_who_asks_twice_is_told_the_same() -> None:
    pair, reports = sound_pair(), []
    for seed in (5, 6):
        torch.manual_seed(seed)
        reports.append(DSKDLoss.preflight(**pair, texts=TEXTS, tokens_per_step=None))
    assert reports[0] == reports[1]


def test_a_model_that_raises_is_a_finding_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = sound_pair()

    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("out of order")

    monkeypatch.setattr(pair["student"].model, "forward", broken)
    report = look(**pair)
    assert "ZeroDivisionError: out of order" in finding(report, "student head", "error").found
    assert "ZeroDivisionError" in finding(report, "predictions", "error").found
    assert finding(report, "student vocabulary", "ok")
    assert finding(report, "alignment span", "ok")
    assert report.costs == ()


def costs(report: PreflightReport) -> dict[str, StepCost]:
    return {cost.component: cost for cost in report.costs}


def test_costs_grow_with_the_tokens_and_weights_do_not() -> None:
    pair = sound_pair()
    single, double = (costs(look(**pair, tokens_per_step=tokens)) for tokens in (1000, 2000))
    assert single.keys() == double.keys()
    for costs_of_one in (single, double):
        weights = sum(each.nbytes for each in pair["student"].parameters())
        assert costs_of_one["student weights"] == StepCost("student weights", 0.0, weights, "arithmetic")
        assert costs_of_one["AdamW: states"].bytes >= 2 * weights
        *parts, whole = costs_of_one.values()
        held, moving = (
            [cost for cost in parts if (cost.basis == "arithmetic") == is_held] for is_held in (True, False)
        )
        largest = max(moving, key=lambda cost: cost.bytes)
        assert whole.bytes == sum(cost.bytes for cost in held) + largest.bytes
        assert whole.component == f"together, the most during {largest.component.removesuffix(': step')}"
        assert whole.seconds == pytest.approx(sum(cost.seconds for cost in parts))
    for part in ("student forward", "student backward", "teacher forward", "loss"):
        assert single[part].seconds > 0
        assert math.isfinite(double[part].seconds)
        assert single[part].basis == "scaled from a measured step"
    assert double["student forward"].bytes == pytest.approx(2 * single["student forward"].bytes, abs=2)


def test_activations_of_a_doubled_batch_are_foretold() -> None:
    """What is stated for twice the tokens is what twice the samples are measured to take."""
    pair = sound_pair() | {"texts": ["There should be one obvious way to do it."]}
    first = look(**pair, tokens_per_step=1)
    measured = int(finding(first, "step", "ok").found.split()[2])
    once = costs(look(**pair, tokens_per_step=measured))["student forward"]
    foretold = costs(look(**pair, tokens_per_step=2 * measured))["student forward"]
    twice = costs(look(**pair | {"texts": pair["texts"] * 2}, tokens_per_step=2 * measured))["student forward"]
    assert (once.basis, twice.basis) == ("measured", "measured")
    assert foretold.basis == "scaled from a measured step"
    assert foretold.bytes == pytest.approx(twice.bytes, rel=0.1)
    assert twice.bytes > 1.8 * once.bytes
