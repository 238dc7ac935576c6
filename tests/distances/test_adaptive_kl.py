"""What is particular to the adaptive distance: its weight."""

from __future__ import annotations

import torch
from hypothesis import given
from torch import Tensor

from dskd_components import get_distance
from tests.helpers.strategies import SEEDS


def naive_weight(student: Tensor, teacher: Tensor, alpha: float) -> float:
    """The head's share of the gap, token by token: a token is in the tail if it and all less likely ones stay below."""
    p, q = teacher.exp().tolist(), student.exp().tolist()
    head = tail = 0.0
    for ours, theirs in zip(p, q, strict=True):
        below = sum(other for other in p if other <= ours)
        gap = abs(ours - theirs)
        if below < alpha:
            tail += gap
        else:
            head += gap
    return head / (head + tail)


def random_pair(seed: int, *, ties: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    student, teacher = (torch.randn(1, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, teacher.round() if ties else teacher


@given(seed=SEEDS)
def test_value_and_gradient_are_the_weighted_ones_of_both_divergences(seed: int) -> None:
    student, teacher = random_pair(seed)
    student.requires_grad_()
    student_log_probs, teacher_log_probs = student.log_softmax(-1), teacher.log_softmax(-1)
    weight = naive_weight(student_log_probs.detach()[0], teacher_log_probs[0], alpha=0.4)
    expected = weight * get_distance("kl")(student_log_probs, teacher_log_probs)
    expected = expected + (1 - weight) * get_distance("reverse_kl")(student_log_probs, teacher_log_probs)
    found = get_distance("adaptive_kl", alpha=0.4)(student_log_probs, teacher_log_probs)
    torch.testing.assert_close(found, expected)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), student, retain_graph=True)
    (found_gradient,) = torch.autograd.grad(found.sum(), student)
    torch.testing.assert_close(found_gradient, expected_gradient)


@given(seed=SEEDS)
def test_equally_likely_tokens_are_on_one_side(seed: int) -> None:
    student, teacher = (side.log_softmax(-1) for side in random_pair(seed, ties=True))
    weight = naive_weight(student[0], teacher[0], alpha=0.31)
    found = get_distance("adaptive_kl", alpha=0.31)(student, teacher)
    expected = weight * get_distance("kl")(student, teacher) + (1 - weight) * get_distance("reverse_kl")(
        student, teacher
    )
    torch.testing.assert_close(found, expected)


def test_a_tail_of_just_alpha_is_on_one_side_however_it_is_rounded() -> None:
    teacher = torch.tensor([[0.25, 0.125, 0.125, 0.5]]).log()
    student = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
    distance = get_distance("adaptive_kl", alpha=0.5)
    values = torch.cat([distance(student, (teacher + shift).log_softmax(-1)) for shift in torch.linspace(-30, 30, 301)])
    torch.testing.assert_close(values, values[:1].expand_as(values), rtol=1e-4, atol=1e-6)
    # Just alpha is not below alpha, so 0.25 is of the head, which has half of the gap.
    kl, reverse = (get_distance(name)(student, teacher) for name in ("kl", "reverse_kl"))
    torch.testing.assert_close(values[:1], 0.5 * kl + 0.5 * reverse, rtol=1e-4, atol=1e-6)
