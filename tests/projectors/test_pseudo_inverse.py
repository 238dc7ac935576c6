"""The projectors that are made from heads: what they promise about logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from dskd_components import Head, ProjectorHeads, get_projector
from dskd_components.projectors.pseudo_inverse import SharedRows, gram_matrix, inverse_root
from tests.helpers.strategies import SEEDS


def pseudo_inverse(weight: Tensor, *, rtol: float) -> Tensor:
    """The transpose of ``pinv(W^T)``, put together from its root."""
    root = inverse_root(gram_matrix(SharedRows(heads(weight, weight))), rtol=rtol)
    return root @ (weight.double() @ root).T


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


def ill_conditioned(seed: int, rows: int, columns: int, smallest: float) -> Tensor:
    """A random matrix whose singular values go down from 1 evenly, on a logarithmic scale."""
    left, _, right = torch.linalg.svd(matrix(seed, rows, columns, min(rows, columns)), full_matrices=False)
    smallest_power = torch.tensor(smallest, dtype=torch.float64).log10()
    values = 10 ** torch.linspace(0.0, float(smallest_power), min(rows, columns), dtype=torch.float64)
    return left * values @ right


@given(
    seed=SEEDS,
    shape=st.sampled_from([(40, 6), (6, 6), (4, 6), (1, 6)]),
    smallest=st.sampled_from([1.0, 1e-2, 1e-4]),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    rtol=st.sampled_from([1e-7, 1e-6, 3e-3, 0.3]),
)
def test_it_is_that_of_torch(seed: int, shape: tuple[int, int], smallest: float, scale: float, rtol: float) -> None:
    weight = scale * ill_conditioned(seed, *shape, smallest)
    expected = torch.linalg.pinv(weight, rtol=rtol)
    unit = float(expected.abs().max())
    torch.testing.assert_close(pseudo_inverse(weight, rtol=rtol) / unit, expected / unit, rtol=1e-6, atol=1e-6)


@given(seed=SEEDS, rank=st.integers(1, 5), rtol=st.sampled_from([1e-7, 1e-6]))
def test_rounding_is_no_singular_value(seed: int, rank: int, rtol: float) -> None:
    weight = matrix(seed, 2000, 64, rank) + 1.0  # rows with much in common, as those of trained heads
    assert inverse_root(gram_matrix(SharedRows(heads(weight, weight))), rtol=rtol).shape == (64, rank + 1)


def test_parts_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {"source_ids": torch.arange(2, 90), "target_ids": torch.arange(88).flip(0)}
    both = heads(matrix(0, 90, 5, 5), matrix(1, 95, 4, 4), **ids)
    hidden = matrix(2, 3, 5, 5)
    whole = [get_projector(name).build(source_size=5, target_size=4, heads=both) for name in ("pinv", "live_pinv")]
    monkeypatch.setattr("dskd_components.projectors.pseudo_inverse.FEWEST_NUMBERS", 1)
    assert len(list(SharedRows(both).parts(torch.float64))) > 10
    for name, expected in zip(("pinv", "live_pinv"), whole, strict=True):
        found = get_projector(name).build(source_size=5, target_size=4, heads=both)
        torch.testing.assert_close(found(hidden, both), expected(hidden, both))


@pytest.mark.parametrize("smallest", [1.0, 1e-3])
def test_in_float32_logits_lose_no_more_than_by_an_exact_inverse(smallest: float) -> None:
    """Rounding times the condition of the head, not times its square, which would be all of it here."""
    source, target = matrix(0, 3000, 16, 16), ill_conditioned(1, 3000, 64, smallest)
    both, hidden = heads(source.float(), target.float()), matrix(2, 10, 16, 16)
    inverse = torch.linalg.pinv(target).float()
    exact = hidden @ source.T @ torch.linalg.pinv(target).T @ target.T

    def lost(projected: Tensor) -> float:
        return float((projected.double() @ target.T - exact).norm() / exact.norm())

    found = get_projector("live_pinv").build(source_size=16, target_size=64, heads=both)(hidden.float(), both)
    assert lost(found) <= 4 * lost(hidden.float() @ (source.float().T @ inverse.T)) + 1e-6


@pytest.mark.parametrize("name", ["pinv", "live_pinv"])
def test_smaller_singular_values_than_can_be_told_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=r"rtol\n.*greater than or equal to 0\.0000001"):
        get_projector(name, rtol=1e-9)


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
