"""What holds for total variation in particular; the laws of every distance are tested in the library."""

from __future__ import annotations

import math

import pytest
import torch
from dskd_divergences import TotalVariation
from torch import Tensor

from dskd_components import get_distance

tvd = TotalVariation()


def log_probs(seed: int, rows: int = 5, tokens: int = 7) -> Tensor:
    return (
        torch.randn(rows, tokens, generator=torch.Generator(torch.get_default_device()).manual_seed(seed))
        .mul(3)
        .log_softmax(-1)
    )


def test_it_is_found_by_name() -> None:
    assert get_distance("tvd") == tvd


def test_it_is_the_greatest_disagreement_on_any_set_of_tokens() -> None:
    p, q = log_probs(0), log_probs(1)
    sets = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * p.shape[1])
    disagreements = (p.exp() - q.exp()) @ sets.T
    torch.testing.assert_close(tvd(p, q), disagreements.max(-1).values)


def test_it_is_a_metric_between_0_and_1() -> None:
    p, q, r = log_probs(0), log_probs(1), log_probs(2)
    assert torch.equal(tvd(p, q), tvd(q, p))
    assert (tvd(p, r) <= tvd(p, q) + tvd(q, r) + 1e-6).all()
    assert torch.equal(tvd(p, p), torch.zeros(5))
    apart = torch.eye(2).log()
    assert torch.equal(tvd(apart, apart.flip(0)), torch.ones(2))


@pytest.mark.parametrize("side", ["student", "teacher", "both"])
def test_tokens_of_probability_zero_leave_value_and_gradient_finite(side: str) -> None:
    absent = torch.tensor([False, False, True, True])
    logits = torch.tensor([[1.0, 2.0, 0.5, 0.3]])
    student = logits.masked_fill(absent & (side != "teacher"), -math.inf).requires_grad_()
    teacher = logits.flip(-1).masked_fill(absent & (side != "student"), -math.inf)
    value = tvd(student.log_softmax(-1), teacher.log_softmax(-1))
    value.sum().backward()
    assert value.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()
