"""The projectors that are made from heads: what they promise about logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dskd_components import Head, ProjectorHeads, get_projector
from dskd_components.projectors.pseudo_inverse import pseudo_inverse
from tests.helpers.strategies import SEEDS


def matrix(seed: int, rows: int, columns: int, rank: int, scale: float = 1.0) -> Tensor:
    """A random matrix of a given rank, float64."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return scale * random(rows, min(rank, columns)) @ random(min(rank, columns), columns)


@given(
    seed=SEEDS,
    rows=st.integers(1, 9),
    columns=st.integers(1, 5),
    rank=st.integers(1, 5),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_it_is_the_moore_penrose_inverse(seed: int, rows: int, columns: int, rank: int, scale: float) -> None:
    weight = matrix(seed, rows, columns, rank, scale).T  # W^T of the text
    inverse = pseudo_inverse(weight.T, rtol=1e-6).T
    unit = weight / scale
    unit_inverse = inverse * scale
    torch.testing.assert_close(unit @ unit_inverse @ unit, unit, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(unit_inverse @ unit @ unit_inverse, unit_inverse, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((unit @ unit_inverse).T, unit @ unit_inverse, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close((unit_inverse @ unit).T, unit_inverse @ unit, rtol=1e-6, atol=1e-5)


def test_a_head_of_zeros_has_a_zero_inverse() -> None:
    assert torch.equal(pseudo_inverse(torch.zeros(4, 3), rtol=1e-6), torch.zeros(3, 4, dtype=torch.float64))


def heads(source: Tensor, target: Tensor, **ids: Any) -> ProjectorHeads:
    return ProjectorHeads(source=Head(source), target=Head(target), **ids)


@given(seed=SEEDS)
def test_logits_survive_where_the_target_is_wide_enough(seed: int) -> None:
    # The target's head is an invertible change of basis of the source's: nothing need be lost.
    source = matrix(seed, 9, 4, 4)
    basis = torch.linalg.qr(matrix(seed + 1, 4, 4, 4))[0]
    both = heads(source, source @ basis)
    projection = get_projector("pinv").build(source_size=4, target_size=4, heads=both).double()
    hidden = matrix(seed + 2, 5, 4, 4)
    assert projection.residual < 1e-6
    torch.testing.assert_close(
        both.target.logits(projection(hidden, both)), both.source.logits(hidden), rtol=1e-4, atol=1e-4
    )


@given(seed=SEEDS, rank=st.integers(1, 3))
def test_the_residual_is_what_is_lost_and_no_linear_map_loses_less(seed: int, rank: int) -> None:
    both = heads(matrix(seed, 12, 5, 5), matrix(seed + 1, 12, 3, rank))
    projection = get_projector("pinv").build(source_size=5, target_size=3, heads=both).double()

    def lost(weight: Tensor) -> float:
        weight = weight.detach()
        return float((both.target.weight @ weight - both.source.weight).norm() / both.source.weight.norm())

    assert projection.residual == pytest.approx(lost(projection.weight), rel=1e-5)
    assert 0 < projection.residual <= 1 + 1e-9
    assert f"residual={projection.residual:.3g}" in repr(projection)
    for step in range(5):
        nudged = projection.weight + 1e-2 * matrix(seed + step, 3, 5, 3)
        assert lost(nudged) >= projection.residual - 1e-9


@given(seed=SEEDS)
def test_only_shared_tokens_decide(seed: int) -> None:
    source, target = matrix(seed, 9, 4, 4), matrix(seed + 1, 8, 3, 3)
    ids = {"source_ids": torch.tensor([1, 5, 8, 2, 4]), "target_ids": torch.tensor([0, 7, 3, 4, 6])}
    some = get_projector("pinv").build(source_size=4, target_size=3, heads=heads(source, target, **ids))
    cut = heads(source[ids["source_ids"]], target[ids["target_ids"]])
    all_ = get_projector("pinv").build(source_size=4, target_size=3, heads=cut)
    torch.testing.assert_close(some.weight, all_.weight)


def test_the_live_map_follows_the_source_head() -> None:
    both = heads(matrix(0, 9, 4, 4), matrix(1, 9, 3, 3))
    projection = get_projector("live_pinv").build(source_size=4, target_size=3, heads=both)
    hidden = matrix(2, 5, 4, 4)
    before = projection(hidden, both)
    both.source.weight.mul_(2.0)
    torch.testing.assert_close(projection(hidden, both), 2 * before)
    expected = hidden @ both.source.weight.T @ torch.linalg.pinv(both.target.weight.T)
    torch.testing.assert_close(projection(hidden, both), expected)


def test_half_precision_heads_are_inverted_in_float64() -> None:
    both = heads(matrix(0, 9, 4, 4).bfloat16(), matrix(1, 9, 3, 3).bfloat16())
    projection = get_projector("pinv").build(source_size=4, target_size=3, heads=both)
    exact = torch.linalg.pinv(both.target.weight.double()) @ both.source.weight.double()
    torch.testing.assert_close(projection.weight.double(), exact, rtol=1e-5, atol=1e-6)
    live = get_projector("live_pinv").build(source_size=4, target_size=3, heads=both)
    assert live(torch.zeros(2, 4), both).dtype == torch.float32
