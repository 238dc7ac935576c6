"""Random weights that are scaled to the heads: what they read as at the start, and that nothing else is changed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dskd_components import Head, InputError, ProjectorHeads, get_projector
from dskd_components.projectors.calibration import unit_logit_std
from tests.helpers.strategies import SEEDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

VOCABULARY, POSITIONS = 400, 64
SANE = 1.05
PROJECTORS: dict[str, dict[str, Any]] = {
    "linear": {"name": "linear"},
    "without bias": {"name": "linear", "bias": False},
    "relu": {"name": "mlp"},
    "gelu": {"name": "mlp", "activation": "gelu", "num_layers": 4, "hidden_size": 32},
    "silu": {"name": "mlp", "activation": "silu", "num_layers": 3},
    "tanh": {"name": "mlp", "activation": "tanh"},
    "nothing shared": {"name": "pinv", "otherwise": "linear"},
}


@pytest.fixture(autouse=True)
def _generator_as_before() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


@dataclass(frozen=True)
class Ends:
    """A source as its states and logits are, and a target as its head is."""

    seed: int
    widths: tuple[int, int]
    state_rms: float
    own_logit_std: float
    target_std: float
    scales: tuple[float, float]
    softcap: float | None
    bias: bool
    common: float
    """What all rows of both heads have in common, as a multiple of what they differ by."""

    def made(self) -> tuple[Tensor, ProjectorHeads]:
        """The states, one entry of which is far larger than others, and the heads."""
        generator = torch.Generator(torch.get_default_device()).manual_seed(self.seed)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        source, target = self.widths
        states = self.state_rms * random(POSITIONS, source)
        states[:, 0] = self.state_rms * math.sqrt(source)
        std = self.own_logit_std / (self.state_rms * math.sqrt(source) * self.scales[0])
        source_weight = std * (random(VOCABULARY, source) + self.common * random(source))
        target_weight = self.target_std * (random(VOCABULARY, target) + self.common * random(target))
        bias = 0.1 * random(VOCABULARY) / self.scales[1] if self.bias else None
        nothing = torch.empty(0, dtype=torch.int64)
        heads = ProjectorHeads(
            source=Head(source_weight, scale=self.scales[0]),
            target=Head(target_weight, bias=bias, scale=self.scales[1], softcap=self.softcap),
            source_ids=nothing,
            target_ids=nothing,
        )
        return states, heads


ENDS = st.builds(
    Ends,
    seed=SEEDS,
    widths=st.tuples(st.sampled_from([8, 24, 96]), st.sampled_from([8, 24, 96])),
    state_rms=st.sampled_from([0.3, 1.0, 5.0, 40.0]),
    own_logit_std=st.sampled_from([2.0, 4.0, 8.0]),
    target_std=st.sampled_from([0.002, 0.04, 0.5, 10.0]),
    scales=st.tuples(st.sampled_from([1.0, 0.0625, 16.0]), st.sampled_from([1.0, 0.125, -8.0])),
    softcap=st.sampled_from([None, 5.0, 30.0]),
    bias=st.booleans(),
    common=st.sampled_from([0.0, 3.0]),
)


def cross_entropy(options: dict[str, Any], ends: Ends) -> tuple[float, Tensor]:
    """Of labels that know nothing, read from projected states; and the projected states."""
    states, heads = ends.made()
    torch.manual_seed(ends.seed)
    source, target = ends.widths
    projection = get_projector(**options).build(source_size=source, target_size=target, heads=heads)
    with torch.no_grad():
        projected = projection(states, heads)
    labels = torch.arange(POSITIONS) % VOCABULARY
    return float(torch.nn.functional.cross_entropy(heads.target.logits(projected), labels)), projected


@pytest.mark.parametrize("name", PROJECTORS)
@given(ends=ENDS)
def test_it_starts_at_nearly_a_uniform_guess(name: str, ends: Ends) -> None:
    found, projected = cross_entropy(PROJECTORS[name], ends)
    assert found <= SANE * math.log(VOCABULARY)
    assert bool((projected != projected[0]).any())


def test_as_torch_draws_it_it_does_not() -> None:
    """Of the pair SmolLM2-135M and Gemma-3-270M: their states and heads are about as large."""
    ends = Ends(0, (640, 576), 5.0, 4.2, 0.1, (1.0, 1.0), None, bias=False, common=0.0)
    assert cross_entropy({"name": "linear", "init": "torch"}, ends)[0] > 2 * math.log(VOCABULARY)
    assert cross_entropy({"name": "linear"}, ends)[0] < 1.01 * math.log(VOCABULARY)


def made(name: str, heads: ProjectorHeads | None, **options: Any) -> Any:
    torch.manual_seed(3)
    return get_projector(name, **options).build(source_size=6, target_size=5, heads=heads)


def heads_of(source: Tensor, target: Tensor, **options: Any) -> ProjectorHeads:
    return ProjectorHeads(source=Head(source), target=Head(target, **options))


def both(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    return torch.randn(40, 6, generator=generator), torch.randn(50, 5, generator=generator)


def test_a_seed_gives_the_directions_that_torch_gives() -> None:
    torch.manual_seed(3)
    drawn = torch.nn.Linear(6, 5)
    scaled = made("linear", heads_of(*both()))
    ratios = (scaled.weight / drawn.weight).detach()
    torch.testing.assert_close(ratios, torch.full_like(ratios, float(ratios[0, 0])))
    assert not scaled.bias.any()
    assert torch.equal(made("linear", heads_of(*both()), init="torch").weight, drawn.weight)
    state = torch.random.get_rng_state()
    torch.manual_seed(3)
    torch.nn.Linear(6, 5)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_without_heads_it_is_as_torch_draws_it(name: str) -> None:
    for ours, theirs in zip(made(name, None).parameters(), made(name, None, init="torch").parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_the_heads_make_of_it_does_not_depend_on_their_units() -> None:
    """States that are halved between heads that are doubled are the same states."""
    source, target = both()
    source, states = source / 4, torch.randn(3, 6)
    heads, halved = heads_of(source, target), heads_of(2 * source, 4 * target)
    expected = heads.target.logits(made("linear", heads)(states, heads))
    torch.testing.assert_close(halved.target.logits(made("linear", halved)(states / 2, halved)), expected)


def test_rows_that_are_no_tokens_do_not_count() -> None:
    source, target = both()
    padded = torch.cat([target, torch.full((3, 5), torch.nan)])
    expected = made("linear", heads_of(source, target)).weight
    assert torch.equal(made("linear", heads_of(source, padded, valid_vocabulary_size=50)).weight, expected)


def test_heads_are_read_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    head = Head(both()[1] + 5.0, scale=-3.0)
    whole = unit_logit_std(head, "target")
    monkeypatch.setattr("dskd_components.projectors.calibration.PART", 1)
    assert unit_logit_std(head, "target") == pytest.approx(whole)
    assert whole == pytest.approx(float(3 * head.weight.var(0, correction=0).sum().sqrt()))


@pytest.mark.parametrize("end", ["source", "target"])
def test_a_head_that_tells_no_tokens_apart_is_nothing_to_scale_to(end: str) -> None:
    weights = dict(zip(("source", "target"), both(), strict=True))
    weights[end] = torch.ones_like(weights[end])
    assert made("linear", heads_of(**weights)).weight.isfinite().all()


@pytest.mark.parametrize("end", ["source", "target"])
@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_a_head_that_is_not_finite_is_named(name: str, end: str) -> None:
    weights = dict(zip(("source", "target"), both(), strict=True))
    weights[end][2, 1] = torch.inf
    with pytest.raises(InputError, match=f"{end}'s head holds NaN"):
        made(name, heads_of(**weights))
