"""Projectors that are made from heads keep the logits of the whole head: scale, bias, softcap, real rows alone."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dskd_components import DSKDLoss, DSKDSpec, Head, InputError, LMStates, ProjectorHeads, get_projector
from tests.helpers.models import tiny_model
from tests.helpers.strategies import SEEDS

NAMES = ("pinv", "live_pinv")
SCALES = (1.0, 0.0625, 8.0, -2.0)
RANK = 4


@dataclass(frozen=True)
class Recipe:
    """What a head has beside a weight."""

    scale: float = 1.0
    bias: bool = False
    softcap: float | None = None
    padding: int = 0
    width: int = RANK
    impossible: int | None = None
    """A token that can never be predicted."""


def head(recipe: Recipe, logits_per_rank: Tensor, shift: Tensor, generator: torch.Generator) -> Head:
    """A head whose logits, before the cap, are ``rank space @ logits_per_rank.T + shift`` in some basis."""
    basis = torch.randn(RANK, recipe.width, generator=generator, dtype=torch.float64)
    weight = logits_per_rank @ basis / recipe.scale
    bias = shift / recipe.scale if recipe.bias else None
    if bias is not None and recipe.impossible is not None:
        bias[recipe.impossible] = -torch.inf
    nan = torch.full((recipe.padding, recipe.width), torch.nan, dtype=torch.float64)
    return Head(
        torch.cat([weight, nan]),
        bias=None if bias is None else torch.cat([bias, nan[:, 0]]),
        scale=recipe.scale,
        softcap=recipe.softcap,
        valid_vocabulary_size=len(weight) if recipe.padding else None,
    )


def pair(seed: int, source: Recipe, target: Recipe, *, shared: bool = False) -> ProjectorHeads:
    """Heads between which an affine map can keep every logit, of all tokens or of five that stand elsewhere."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    logits = random(9, RANK)
    # Biases differ by what some hidden state gives, so that the map has a place for it.
    common = random(9) if source.bias and target.bias else torch.zeros(9, dtype=torch.float64)
    shifts = [common + logits @ random(RANK) for _ in range(2)]
    ends = [head(recipe, logits, shift, generator) for recipe, shift in zip((source, target), shifts, strict=True)]
    if not shared:
        return ProjectorHeads(source=ends[0], target=ends[1])
    rows = torch.tensor([1, 5, 8, 2, 4])
    order = torch.randperm(9, generator=generator)
    permuted = Head(
        torch.cat([ends[1].weight[:9][order], ends[1].weight[9:]]),
        bias=None if ends[1].bias is None else torch.cat([ends[1].bias[:9][order], ends[1].bias[9:]]),
        scale=ends[1].scale,
        softcap=ends[1].softcap,
        valid_vocabulary_size=ends[1].valid_vocabulary_size,
    )
    return ProjectorHeads(source=ends[0], target=permuted, source_ids=rows, target_ids=order.argsort()[rows])


def built(name: str, heads: ProjectorHeads, **options: Any) -> Any:
    sizes = {"source_size": heads.source.hidden_size, "target_size": heads.target.hidden_size}
    return get_projector(name, **options).build(**sizes, heads=heads).double()


def both_logits(projection: Any, heads: ProjectorHeads, *, capped: bool = True) -> tuple[Tensor, Tensor]:
    """What the target's head reads from projected states, and what the source's head gives, of the shared tokens."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(1)
    hidden = torch.randn(6, heads.source.hidden_size, generator=generator, dtype=torch.float64)
    source, target = (head if capped else replace(head, softcap=None) for head in (heads.source, heads.target))
    found, expected = target.logits(projection(hidden, heads)), source.logits(hidden)
    if heads.source_ids is not None:
        return found[:, heads.target_ids], expected[:, heads.source_ids]
    return found, expected


recipes = st.builds(
    Recipe,
    scale=st.sampled_from(SCALES),
    bias=st.booleans(),
    padding=st.sampled_from([0, 3]),
    width=st.sampled_from([RANK, RANK + 2]),
)


@pytest.mark.parametrize("name", NAMES)
@given(
    seed=SEEDS,
    source=recipes,
    target=recipes,
    softcap=st.sampled_from([None, 5.0]),
    shared=st.booleans(),
)
def test_the_target_reads_what_the_source_gives(
    name: str, seed: int, source: Recipe, target: Recipe, softcap: float | None, shared: bool
) -> None:
    ends = replace(source, softcap=softcap), replace(target, softcap=softcap)
    heads = pair(seed, *ends, shared=shared)
    projection = built(name, heads)
    found, expected = both_logits(projection, heads)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    if name == "pinv":
        assert projection.residual < 1e-4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("of_source", "of_target"), [(5.0, None), (None, 5.0), (5.0, 30.0)])
def test_between_unlike_softcaps_logits_survive_up_to_the_caps(
    name: str, of_source: float | None, of_target: float | None
) -> None:
    heads = pair(0, Recipe(scale=8.0, softcap=of_source), Recipe(bias=True, softcap=of_target))
    torch.testing.assert_close(*both_logits(built(name, heads), heads, capped=False), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sides", [(3, None), (None, 3), (3, 3), (3, 4)])
def test_tokens_that_cannot_be_predicted_do_not_count(name: str, sides: tuple[int | None, int | None]) -> None:
    heads = pair(0, Recipe(bias=True, impossible=sides[0]), Recipe(bias=True, scale=8.0, impossible=sides[1]))
    projection = built(name, heads)
    rest = [token for token in range(9) if token not in sides]
    found, expected = both_logits(projection, heads)
    torch.testing.assert_close(found[:, rest], expected[:, rest], rtol=1e-4, atol=1e-4)
    assert name == "live_pinv" or projection.residual < 1e-4


def test_the_live_map_follows_scale_and_bias() -> None:
    heads = pair(0, Recipe(bias=True), Recipe(bias=True, scale=8.0))
    projection = built("live_pinv", heads)
    assert heads.source.bias is not None
    heads.source.weight.mul_(0.5)
    heads.source.bias.add_(heads.source.weight @ torch.ones(RANK, dtype=torch.float64))
    scaled = replace(heads, source=replace(heads.source, scale=3.0))
    # The target's bias is the old one, and three times its old share of the source's is no hidden state's doing.
    found, expected = both_logits(projection, scaled)
    lost = found - expected
    torch.testing.assert_close(
        lost @ heads.target.weight, torch.zeros_like(lost @ heads.target.weight), rtol=0, atol=1e-4
    )


def test_a_map_without_bias_says_what_it_loses() -> None:
    heads = pair(0, Recipe(bias=True), Recipe())
    found = built("pinv", heads, bias=False)
    assert found.bias is None
    source, target = heads.source, heads.target
    assert source.bias is not None
    lost = torch.cat([target.weight @ found.weight - source.weight, -source.bias[:, None]], 1)
    whole = torch.cat([source.weight, source.bias[:, None]], 1)
    assert found.residual == pytest.approx(float(lost.detach().norm() / whole.norm()), rel=1e-5)
    assert found.residual > 0.1


def test_a_bias_is_there_where_a_head_has_one() -> None:
    plain = pair(0, Recipe(), Recipe())
    assert built("pinv", plain).bias is None
    assert torch.equal(built("pinv", plain, bias=True).bias, torch.zeros(RANK, dtype=torch.float64))
    assert built("pinv", pair(0, Recipe(bias=True), Recipe())).bias is not None
    assert built("pinv", pair(0, Recipe(), Recipe(bias=True))).bias is not None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("end", ["source", "target"])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_head_that_is_not_finite_is_named(name: str, end: str, part: str) -> None:
    heads = pair(0, Recipe(bias=True), Recipe(bias=True))
    getattr(getattr(heads, end), part)[2] = torch.nan
    with pytest.raises(InputError, match=f"{end}.*NaN"):
        built(name, heads)


@pytest.mark.parametrize("scale", [0.0, torch.inf, torch.nan])
def test_a_scale_is_a_number_that_keeps_logits_apart(scale: float) -> None:
    with pytest.raises(InputError, match=r"Head\.scale"):
        Head(torch.eye(3), scale=scale)


@pytest.mark.parametrize("engine", ["tiled", "eager"])
@pytest.mark.parametrize(("student", "teacher"), [(1.0, 16.0), (0.125, 1.0), (8.0, 0.5)])
def test_models_of_equal_logits_have_nothing_to_distil(student: float, teacher: float, engine: str) -> None:
    """As published for v2, in which the student learns through its own head's map."""
    heads = pair(3, Recipe(scale=student, bias=True), Recipe(scale=teacher, bias=True, width=RANK + 2))
    hidden = torch.randn(
        2, 5, RANK, dtype=torch.float64, generator=torch.Generator(torch.get_default_device()).manual_seed(0)
    )
    wanted = heads.source.logits(hidden)
    theirs = (wanted / teacher - heads.target.bias) @ torch.linalg.pinv(heads.target.weight).T
    torch.testing.assert_close(heads.target.logits(theirs), wanted)
    targets = torch.arange(10).reshape(2, 5) % 9
    spec = DSKDSpec.preset("dskd-v2", engine=engine)
    loss_fn = DSKDLoss(
        spec,
        student_hidden_size=RANK,
        teacher_hidden_size=RANK + 2,
        student_head=heads.source,
        teacher_head=heads.target,
    ).double()
    out = loss_fn(
        LMStates(hidden_states=hidden, targets=targets, head=heads.source),
        LMStates(hidden_states=theirs, targets=targets, head=heads.target),
    )
    assert out.metrics["t2s_agreement"].item() == 1.0
    for name in ("s2t_kd", "t2s_kd"):
        assert out.terms[name].item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("family", "field", "power"), [("Granite", "logits_scaling", -1), ("Cohere", "logit_scale", 1)]
)
def test_models_whose_configuration_scales_logits(family: str, field: str, power: int) -> None:
    teacher: Any = tiny_model(family, tie_word_embeddings=False)
    student: Any = copy.deepcopy(teacher)
    factor = 8.0
    setattr(student.config, field, getattr(student.config, field) * factor)
    setattr(student, field, getattr(student.config, field))
    with torch.no_grad():
        student.get_output_embeddings().weight.div_(factor**power)
    loss_fn = DSKDLoss.from_models(DSKDSpec.preset("dskd-v2"), student, teacher)
    ids = torch.arange(3, 27).reshape(2, 12)
    out = loss_fn.run(student, teacher, {"input_ids": ids, "labels": ids})
    assert out.terms["s2t_kd"].item() == pytest.approx(0.0, abs=1e-5)
    assert loss_fn.projectors["t2s"].residual < 1e-3
