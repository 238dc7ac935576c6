"""What holds for key-query matching in particular; the laws of every aligner are tested in the library."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from dskd_kq import Discriminator, KeyQueryMatching, reversed_gradient
from torch.nn import functional as F

from dskd_components import DSKDLoss, DSKDSpec, Head, LMStates, get_aligner

if TYPE_CHECKING:
    from torch import Tensor

KQ = KeyQueryMatching(hidden_size=16)


def states(seed: int, *, width: int, length: int, scored: list[int]) -> LMStates:
    """Random states; of each row the given number of positions is scored."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    targets = torch.randint(0, 9, (len(scored), length), generator=generator)
    for row, number in zip(targets, scored, strict=True):
        row[number:] = -100
    return LMStates(
        hidden_states=torch.randn(len(scored), length, width, generator=generator),
        targets=targets,
        head=Head(torch.randn(9, width, generator=generator)),
        input_ids=torch.randint(0, 9, (len(scored), length), generator=generator),
        embedding=torch.randn(9, width, generator=generator) + 1,
    )


STUDENT = states(0, width=4, length=5, scored=[5, 2, 3])
TEACHER = states(1, width=6, length=7, scored=[3, 7, 0])


def built(**fields: Any) -> DSKDLoss:
    torch.manual_seed(0)
    spec = DSKDSpec.preset("dskd-cma", aligner=KQ, kd_rate=1.0).replace(**fields)
    return DSKDLoss(spec, student_hidden_size=4, teacher_hidden_size=6)


def vectors(loss_fn: DSKDLoss) -> tuple[list[Tensor], list[Tensor]]:
    """Queries and keys of the two samples that both sides have."""
    aligner: Any = loss_fn.aligner
    found = loss_fn.align(STUDENT, TEACHER)
    sides = (
        (aligner.queries(STUDENT), found.student_covered),
        (aligner.keys(TEACHER)(slice(None)), found.teacher_covered),
    )
    queries, keys = ([side[row][covered[row]] for row in range(2)] for side, covered in sides)
    return queries, keys


def test_the_term_is_the_discriminators_cross_entropy_sample_by_sample() -> None:
    loss_fn = built()
    aligner: Any = loss_fn.aligner
    expected = torch.zeros(())
    for query, key in zip(*vectors(loss_fn), strict=True):
        of_query, of_key = (aligner.discriminator(side) for side in (query, key))
        expected = expected + F.binary_cross_entropy_with_logits(of_query, torch.zeros(len(query)), reduction="sum")
        expected = expected + len(query) * F.binary_cross_entropy_with_logits(of_key, torch.ones(len(key)))
    out = loss_fn(STUDENT, TEACHER)
    torch.testing.assert_close(out.terms["kq"], expected.detach() / 10)
    assert out.counts["kq"] == 7  # of 10 scored positions 3 have no key


def test_the_discriminator_descends_and_the_queries_ascend() -> None:
    loss_fn = built()
    aligner: Any = loss_fn.aligner
    found = aligner(STUDENT, TEACHER, None)
    query, discriminator = aligner.query.weight, aligner.discriminator.output.weight
    ours = torch.autograd.grad(found.terms["kq"].values.sum(), (query, discriminator), retain_graph=True)
    plainly = F.softplus(aligner.discriminator(aligner.queries(STUDENT)[found.student_covered])).sum()
    (of_query,) = torch.autograd.grad(plainly, query)
    torch.testing.assert_close(ours[0], -of_query)
    stronger = built(aligner=KQ.model_copy(update={"reversal": 3.0})).aligner
    theirs = torch.autograd.grad(
        stronger(STUDENT, TEACHER, None).terms["kq"].values.sum(),
        (stronger.query.weight, stronger.discriminator.output.weight),
    )
    torch.testing.assert_close(theirs[0], 3 * ours[0])
    torch.testing.assert_close(theirs[1], ours[1])


def test_apart_from_its_term_it_is_cross_model_attention() -> None:
    attention = built(aligner="cma")
    matching = built()
    missing = matching.load_state_dict(attention.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all("discriminator" in key for key in missing.missing_keys)
    expected, found = attention(STUDENT, TEACHER), matching(STUDENT, TEACHER)
    for name, value in expected.terms.items():
        torch.testing.assert_close(found.terms[name], value)
    torch.testing.assert_close(found.loss, expected.loss + found.terms["kq"])
    assert built(aligner=KQ.model_copy(update={"weight": 0.0}))(STUDENT, TEACHER).loss < found.loss


def test_samples_are_told_apart_a_few_at_a_time_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    aligner: Any = built().aligner

    def outcome() -> list[Tensor]:
        term = aligner(STUDENT, TEACHER, None).terms["kq"]
        values = term.values[term.eligible]
        return [values, *torch.autograd.grad((values * torch.arange(1, 8)).sum(), list(aligner.parameters()))]

    together = outcome()
    monkeypatch.setattr("dskd_components.aligners.cross_model_attention.CHUNK", 1)
    torch.testing.assert_close(outcome(), together)


def test_neither_queries_nor_keys_are_kept_for_the_gradient() -> None:
    aligner: Any = built().aligner
    shapes = []

    def keep(tensor: Tensor) -> Tensor:
        shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = aligner(STUDENT, TEACHER, None)
    assert found.terms["kq"].values.requires_grad
    assert shapes
    assert not [shape for shape in shapes if shape[-1:] in {(8,), (12,), (16,)}]  # 2 ds, 2 dt, the hidden layer


@pytest.mark.parametrize(("reversal", "least", "most"), [(1e-9, 0.0, 0.1), (1.0, 0.5, math.log(4))])
def test_alone_the_discriminator_wins_and_against_the_queries_it_does_not(
    reversal: float, least: float, most: float
) -> None:
    aligner: Any = built(aligner=KQ.model_copy(update={"reversal": reversal})).aligner
    optimizer = torch.optim.Adam(aligner.parameters(), lr=1e-3)
    for _ in range(400):
        found = aligner(STUDENT, TEACHER, None).terms["kq"]
        term = found.values[found.eligible].mean()
        optimizer.zero_grad()
        term.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in aligner.parameters())
        optimizer.step()
    assert least < term < most


def test_the_reversed_gradient_leaves_values_as_they_are() -> None:
    values = torch.tensor([1e30, -3.3, 0.0], requires_grad=True)
    passed = reversed_gradient(values, 0.7)
    assert torch.equal(passed, values)
    torch.testing.assert_close(torch.autograd.grad(passed.sum(), values)[0], torch.full((3,), -0.7))


def test_the_discriminator_can_tell_two_clouds_apart() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(4, 8)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-2)
    keys, queries = torch.randn(64, 4) + 1, torch.randn(64, 4) - 1
    for _ in range(100):
        loss = F.softplus(discriminator(queries)).mean() + F.softplus(-discriminator(keys)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5


def test_it_is_found_by_name() -> None:
    assert get_aligner("kq") == KeyQueryMatching()
