"""What holds for these distances in particular; the laws of every distance are tested in the library."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from dskd_divergences import Alpha, AlphaBeta, Hellinger, Jeffreys, Renyi, SquaredHellinger, Triangular
from pydantic import ValidationError

from dskd_components import Distance, get_distance
from dskd_components.distances import KL, ReverseKL

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

hellinger, squared_hellinger, triangular = Hellinger(), SquaredHellinger(), Triangular()


def log_probs(seed: int, rows: int = 5, tokens: int = 7) -> Tensor:
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    return torch.randn(rows, tokens, generator=generator, dtype=torch.float64).mul(3).log_softmax(-1)


# What each distance is, token by token, for the teacher's probability p and the student's q.
DEFINITIONS: dict[Distance, Callable[[float, float], float]] = {
    Alpha(alpha=0.3): lambda p, q: (0.3 * p + 0.7 * q - p**0.3 * q**0.7) / 0.21,
    AlphaBeta(alpha=0.4, beta=1.2): lambda p, q: (p**1.6 / 4 + q**1.6 * 3 / 4 - p**0.4 * q**1.2) / 0.48,
    Jeffreys(): lambda p, q: p * math.log(p / q) + q * math.log(q / p),
    SquaredHellinger(): lambda p, q: (math.sqrt(p) - math.sqrt(q)) ** 2 / 2,
    Triangular(): lambda p, q: (p - q) ** 2 / (p + q),
}


@pytest.mark.parametrize("distance", DEFINITIONS, ids=lambda d: d.name)
def test_it_is_what_its_definition_says(distance: Distance) -> None:
    student, teacher = log_probs(0), log_probs(1)
    pairs = zip(teacher.exp().tolist(), student.exp().tolist(), strict=True)
    expected = [sum(DEFINITIONS[distance](p, q) for p, q in zip(*pair, strict=True)) for pair in pairs]
    torch.testing.assert_close(distance(student, teacher), torch.tensor(expected, dtype=torch.float64))
    assert get_distance(distance.name, **distance.model_dump(exclude={"name"})) == distance


def test_they_are_one_family() -> None:
    student, teacher = log_probs(0), log_probs(1)
    affinity = (0.5 * (student + teacher)).exp().sum(-1)
    squared = squared_hellinger(student, teacher)
    torch.testing.assert_close(squared, 1 - affinity)
    torch.testing.assert_close(hellinger(student, teacher), squared.sqrt())
    torch.testing.assert_close(Alpha(alpha=0.5)(student, teacher), 4 * squared)
    torch.testing.assert_close(Renyi(alpha=0.5)(student, teacher), -2 * affinity.log())
    torch.testing.assert_close(AlphaBeta(alpha=0.3, beta=0.7)(student, teacher), Alpha(alpha=0.3)(student, teacher))


@pytest.mark.parametrize("distance", [Alpha, Renyi], ids=lambda d: d.__name__)
def test_towards_order_1_it_becomes_forward_kl(distance: type[Distance]) -> None:
    student, teacher = log_probs(0), log_probs(1)
    near = distance.model_validate({"alpha": 1 - 1e-6})
    torch.testing.assert_close(near(student, teacher), KL()(student, teacher), rtol=1e-4, atol=0.0)


def test_towards_order_0_alpha_becomes_reverse_kl() -> None:
    student, teacher = log_probs(0), log_probs(1)
    torch.testing.assert_close(Alpha(alpha=1e-6)(student, teacher), ReverseKL()(student, teacher), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize(
    "distance", [Alpha(alpha=0.3), AlphaBeta(alpha=0.4, beta=1.2), hellinger, squared_hellinger, triangular]
)
def test_its_bound_is_reached_where_nothing_is_in_common(distance: Any) -> None:
    apart = torch.eye(2).log()
    torch.testing.assert_close(distance(apart, apart.flip(0)), torch.full((2,), distance.upper_bound))


@pytest.mark.parametrize("metric", [hellinger, lambda p, q: triangular(p, q).sqrt()], ids=["hellinger", "triangular"])
def test_no_detour_is_shorter(metric: Callable[[Tensor, Tensor], Tensor]) -> None:
    p, q, r = (log_probs(seed, rows=200) for seed in range(3))
    assert (metric(p, r) <= metric(p, q) + metric(q, r) + 1e-12).all()


@pytest.mark.parametrize(("step", "least", "most"), [(0.0, 0.0, 0.0), (1e-6, 0.1, 0.5)])
def test_hellinger_has_a_kink_and_there_the_gradient_0(step: float, least: float, most: float) -> None:
    logits = log_probs(0).requires_grad_()
    moved = (logits.detach() + step * torch.eye(5, 7)).log_softmax(-1)
    (gradient,) = torch.autograd.grad(hellinger(logits.log_softmax(-1), moved).sum(), logits)
    assert least <= gradient.norm(dim=-1).max() <= most


@pytest.mark.parametrize("name", ["alpha", "renyi"])
@pytest.mark.parametrize("order", [0, 1, 2, -1, math.nan])
def test_an_order_without_finite_values_is_refused(name: str, order: float) -> None:
    with pytest.raises(ValidationError, match=r"alpha\n"):
        get_distance(name, alpha=order)
