"""What every registered projector must obey."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from registered import names
from strategies import SEEDS
from torch import Tensor

from dskd_components import Head, Projection, ProjectorHeads, get_projector

pytestmark = pytest.mark.parametrize("name", names("projector"))


def setting(name: str, seed: int) -> tuple[Projection, Tensor, ProjectorHeads]:
    """A built projection from width 5 to width 3, hidden states, and the heads that it was built for."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    heads = ProjectorHeads(source=Head(random(11, 5)), target=Head(random(11, 3)))
    torch.manual_seed(seed)
    projection = get_projector(name).build(source_size=5, target_size=3, heads=heads).double()
    return projection, random(2, 4, 5), heads


@given(seed=SEEDS)
def test_width_and_precision_are_as_promised(name: str, seed: int) -> None:
    projection, hidden, heads = setting(name, seed)
    for dtype in (torch.float32, torch.float64):
        projected = projection(hidden.to(dtype), heads)
        assert projected.shape == (2, 4, 3)
        assert projected.dtype == dtype
        assert projected.isfinite().all()


@given(seed=SEEDS)
def test_positions_know_nothing_of_one_another(name: str, seed: int) -> None:
    projection, hidden, heads = setting(name, seed)
    projected = projection(hidden, heads)
    for sample in range(2):
        for position in range(4):
            torch.testing.assert_close(projection(hidden[sample, position], heads), projected[sample, position])


@given(seed=SEEDS)
def test_what_comes_in_decides_what_goes_out(name: str, seed: int) -> None:
    projection, hidden, heads = setting(name, seed)
    hidden.requires_grad_()
    projected = projection(hidden, heads)
    (gradient,) = torch.autograd.grad(projected.square().sum(), hidden)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
    assert not torch.equal(projection(hidden + 1, heads), projected)


@given(seed=SEEDS)
def test_arguments_are_not_changed_and_results_repeat(name: str, seed: int) -> None:
    projection, hidden, heads = setting(name, seed)
    before = hidden.clone(), heads.source.weight.clone(), heads.target.weight.clone()
    assert torch.equal(projection(hidden, heads), projection(hidden, heads))
    for now, then in zip((hidden, heads.source.weight, heads.target.weight), before, strict=True):
        assert torch.equal(now, then)


@given(seed=SEEDS)
def test_gradients_never_reach_the_heads(name: str, seed: int) -> None:
    projection, hidden, heads = setting(name, seed)
    source, target = heads.source.weight.requires_grad_(), heads.target.weight.requires_grad_()
    projection(hidden.requires_grad_(), heads).sum().backward()
    assert source.grad is None
    assert target.grad is None


@given(seed=SEEDS)
def test_a_checkpoint_restores_it(name: str, seed: int) -> None:
    projection, hidden, heads = setting(name, seed)
    torch.manual_seed(seed + 1)
    other = get_projector(name).build(source_size=5, target_size=3, heads=heads).double()
    with torch.no_grad():
        for parameter in projection.parameters():
            parameter.add_(torch.randn_like(parameter))
    other.load_state_dict(projection.state_dict())
    torch.testing.assert_close(other(hidden, heads), projection(hidden, heads))


@given(seed=SEEDS, shared=st.integers(1, 6))
def test_any_number_of_shared_tokens_will_do(name: str, seed: int, shared: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    heads = ProjectorHeads(
        source=Head(torch.randn(9, 5, generator=generator)),
        target=Head(torch.randn(7, 3, generator=generator)),
        source_ids=torch.randperm(9, generator=generator)[:shared],
        target_ids=torch.randperm(7, generator=generator)[:shared],
    )
    projection = get_projector(name).build(source_size=5, target_size=3, heads=heads)
    assert projection(torch.randn(4, 5, generator=generator), heads).isfinite().all()


@given(seed=SEEDS)
def test_an_affine_projection_is_what_it_says(name: str, seed: int) -> None:
    projection, hidden_states, heads = setting(name, seed)
    affine = projection.affine(heads)
    if affine is not None:
        expected = torch.nn.functional.linear(hidden_states, affine.weight, affine.bias)
        torch.testing.assert_close(projection(hidden_states, heads), expected)
