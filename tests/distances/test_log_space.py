"""What the operations under the distances promise where a probability is zero."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dskd_components import get_distance
from dskd_components.components import distribution
from dskd_components.components.distribution import Distribution
from dskd_components.distances import BUILT_IN
from dskd_components.distances.log_space import log_mixture, log_ratio_to_mixture, relative_entropy

HALVES = torch.tensor([0.5, 0.5, 0.0]).log()
QUARTERS = torch.tensor([0.25, 0.75, 0.0]).log()


@pytest.mark.parametrize("leading", [(), (1,), (2, 3)])
def test_a_row_may_be_one_of_many_or_stand_alone(leading: tuple[int, ...]) -> None:
    found = relative_entropy(HALVES.expand(*leading, 3), QUARTERS.expand(*leading, 3))
    torch.testing.assert_close(found, torch.full(leading, 0.5 * math.log(4 / 3)))


def test_a_mixture_lacks_only_what_both_lack() -> None:
    first, second = torch.tensor([1.0, 0.0, 0.0]).log(), torch.tensor([0.0, 1.0, 0.0]).log()
    assert torch.equal(log_mixture(first, second, 0.25).exp(), torch.tensor([0.25, 0.75, 0.0]))
    assert log_mixture(first, second, 0.25)[2] == -math.inf


def test_the_ratio_to_a_mixture_is_0_where_its_part_rules_a_token_out() -> None:
    part = Distribution.of_logits(HALVES[None])
    found = log_ratio_to_mixture(part, torch.tensor([[0.25, 0.25, 0.5]]).log())
    torch.testing.assert_close(found, torch.tensor([[math.log(2), math.log(2), 0.0]]))


@pytest.mark.parametrize(
    ("name", "options", "bound"),
    [
        ("js", {}, math.log(2)),
        ("js", {"beta": 0.3}, -0.3 * math.log(0.3) - 0.7 * math.log(0.7)),
        ("skew_kl", {"alpha": 0.2}, -math.log(0.2)),
        ("skew_reverse_kl", {"alpha": 0.2}, -math.log(0.2)),
    ],
)
def test_sides_that_rule_each_other_out_are_as_far_apart_as_can_be(
    name: str, options: dict[str, float], bound: float
) -> None:
    distance = get_distance(name, **options)
    student: Tensor = torch.tensor([[1.0, 0.0, 0.0]]).log()
    teacher: Tensor = torch.tensor([[0.0, 0.5, 0.5]]).log()
    torch.testing.assert_close(distance(student, teacher), torch.tensor([bound]))


@pytest.mark.parametrize("name", [kind.model_fields["name"].default for kind in BUILT_IN])
@pytest.mark.parametrize("rules_out", [False, True])
def test_one_pass_over_logits_gives_what_several_give(
    name: str, rules_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accelerator makes log-probabilities in one pass; a CPU tries that here."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    logits = torch.randn(2, 4, 50, generator=generator, dtype=torch.float64).mul(8).add(1000).float()
    if rules_out:
        logits[..., 7:9] = -math.inf
    found = []
    for fuses in (False, True):
        monkeypatch.setattr(distribution, "fuses_log_softmax", lambda _, fuses=fuses: fuses)
        sides = [Distribution.of_logits(side, all_finite=not rules_out) for side in logits]
        outcome = get_distance(name).value_and_gradients(*sides, student_gradient=True, teacher_gradient=True)
        chosen = sides[0].log_probs_of(torch.arange(4))
        found.append([outcome.values, outcome.student, outcome.teacher, chosen])
    for one, several in zip(*reversed(found), strict=True):
        torch.testing.assert_close(one, several, rtol=2e-6, atol=2e-6)
