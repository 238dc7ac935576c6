"""Weights of terms: the loss is linear in them, and a schedule is at each step the constant that it has reached."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dskd_components import ConfigurationError, DSKDLoss, DSKDSpec, InputError
from dskd_components.engines._tiling.side_rows import SideRows
from dskd_components.engines.reduction import LossWeights
from dskd_components.spaces import TeacherSpace
from tests.helpers.registered import build, specs
from tests.helpers.spec_strategies import weights as weight_strategy
from tests.helpers.strategies import SEEDS, Batch, make_batch

if TYPE_CHECKING:
    from torch import Tensor

ENGINES = ["tiled", "eager"]
SPECS = {name: spec for name, spec in specs().items() if name.startswith(("preset", "aligner", "space"))}


def batch_for(spec: DSKDSpec, seed: int) -> Batch:
    batch = make_batch(seed, same_tokenizer=spec.aligner.same_tokenizer)
    batch.student.hidden_states.requires_grad_()
    batch.student.head.weight.requires_grad_()
    return batch


def gradients(loss_fn: DSKDLoss, batch: Batch, loss: Tensor) -> list[Tensor]:
    inputs = [batch.student.hidden_states, batch.student.head.weight, *loss_fn.parameters()]
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=4)
@given(seed=SEEDS, engine=st.sampled_from(ENGINES), data=st.data())
def test_the_loss_is_linear_in_the_weights(name: str, seed: int, engine: str, data: st.DataObject) -> None:
    spec = SPECS[name].replace(engine=engine)
    batch = batch_for(spec, seed)
    terms = batch.loss(build(spec, batch)).terms
    distilled = [term for term in terms if term != "ce"]
    chosen = {term: data.draw(st.sampled_from([0.0, 0.5, 1.0, 3.0])) for term in distilled}
    rate = data.draw(st.sampled_from([0.0, 0.25, 1.0]))

    def part(kd_rate: float, by_term: dict[str, float]) -> tuple[Tensor, list[Tensor]]:
        loss_fn = build(spec.replace(kd_rate=kd_rate, weights=by_term), batch)
        loss = batch.loss(loss_fn).loss
        return loss.detach(), gradients(loss_fn, batch, loss)

    whole, gradient = part(rate, chosen)
    none = dict.fromkeys(distilled, 0.0)
    parts = [((1 - rate), part(0.0, none)), *((rate * chosen[term], part(1.0, none | {term: 1.0})) for term in chosen)]
    torch.testing.assert_close(whole, sum((factor * loss for factor, (loss, _) in parts), torch.zeros(())).to(whole))
    for number, found in enumerate(gradient):
        expected = sum((factor * grads[number] for factor, (_, grads) in parts), torch.zeros_like(found))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("aligner", ["identity", "cma", "kq"])
@settings(max_examples=15)
@given(seed=SEEDS, step=st.integers(0, 1200), data=st.data())
def test_a_schedule_is_the_constant_of_its_step(
    engine: str, aligner: str, seed: int, step: int, data: st.DataObject
) -> None:
    weights = data.draw(
        st.fixed_dictionaries({}, optional=dict.fromkeys(["t2s_ce", "t2s_kd", "s2t_kd"], weight_strategy()))
    )
    spec = DSKDSpec(engine=engine, aligner=aligner, kd_rate=data.draw(weight_strategy(1)), weights=weights)
    batch = batch_for(spec, seed)
    scheduled, constant = build(spec, batch), build(spec.at(step), batch)
    out, expected = batch.loss(scheduled, step=step), batch.loss(constant)
    assert torch.equal(out.loss, expected.loss)
    for found, wanted in zip(
        gradients(scheduled, batch, out.loss), gradients(constant, batch, expected.loss), strict=True
    ):
        assert torch.equal(found, wanted)
    assert out.terms == expected.terms


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SPECS)
def test_weights_of_one_change_no_bit(name: str, engine: str) -> None:
    spec = SPECS[name].replace(engine=engine)
    batch = batch_for(spec, 3)
    plain = build(spec, batch)
    out = batch.loss(plain)
    weighted = build(spec.replace(weights={term: 1 for term in out.terms if term != "ce"}), batch)
    again = batch.loss(weighted, step=5)
    assert torch.equal(out.loss, again.loss)
    for found, wanted in zip(gradients(weighted, batch, again.loss), gradients(plain, batch, out.loss), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SPECS)
def test_without_its_cross_entropy_a_loss_is_all_that_is_left(name: str, engine: str) -> None:
    spec = SPECS[name].replace(engine=engine)
    batch = batch_for(spec, 4)
    loss_fn = build(spec, batch)
    given_none, given_zero = (
        batch.loss(loss_fn, weights=LossWeights(cross_entropy=weight, distillation=0.7)) for weight in (None, 0.0)
    )
    assert "ce" not in given_none.terms
    assert "ce" not in given_none.counts
    assert {**given_zero.terms, "ce": 0} == {**given_none.terms, "ce": 0}
    torch.testing.assert_close(given_none.loss, given_zero.loss)
    for found, wanted in zip(
        gradients(loss_fn, batch, given_none.loss), gradients(loss_fn, batch, given_zero.loss), strict=True
    ):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -1.0, "1", torch.tensor(0.5, requires_grad=True), True])
def test_weights_of_a_call_are_numbers_as_those_of_a_spec_are(weight: Any) -> None:
    """A tensor would be a constant in tiles, and a NaN is none of the model's."""
    kept: dict[str, Any] = {"cross_entropy": 0.5, "distillation": 0.5}
    for field, given_weight in (("cross_entropy", weight), ("distillation", weight), ("by_term", {"t2s_kd": weight})):
        with pytest.raises(InputError, match=rf"LossWeights\.{field}.*: expected a plain number, finite and not"):
            LossWeights(**(kept | {field: given_weight}))


@given(seed=SEEDS)
def test_micro_batches_of_one_step_add_up(seed: int) -> None:
    spec = DSKDSpec(
        kd_rate={"name": "cosine", "start": 1, "end": 0, "steps": 10},  # type: ignore[arg-type]
        weights={"s2t_kd": {"name": "linear", "start": 0, "end": 3, "steps": 10}},  # type: ignore[dict-item]
    )
    batch = batch_for(spec, seed)
    loss_fn = build(spec, batch)
    whole = batch.loss(loss_fn, step=4).loss
    scored = batch.student.scored.sum()
    parts = [batch.rows(rows).loss(loss_fn, step=4, num_items_in_batch=scored).loss for rows in (slice(1), slice(1, 3))]
    torch.testing.assert_close(parts[0] + parts[1], whole)


@pytest.mark.parametrize(
    ("fields", "name", "message"),
    [
        ({}, "t2s_kl", r"unknown term 't2s_kl' \(did you mean 't2s_kd'.*terms are t2s_ce, t2s_kd, s2t_kd"),
        ({"spaces": ["teacher"]}, "t2s_kd", r"unknown term 't2s_kd'.*this spec's terms are s2t_kd"),
        ({"aligner": "cma"}, "kq", r"unknown term 'kq'"),
        ({}, "ce", r"'ce'.*has the share 1 - kd_rate; set kd_rate instead"),
    ],
)
def test_a_weight_for_a_term_that_there_is_not(fields: dict[str, Any], name: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        DSKDSpec(weights={name: 2.0}, **fields)
    assert [error["loc"] for error in caught.value.errors()] == [("weights", name)]


def test_terms_of_aligners_have_weights_too() -> None:
    batch = make_batch(0, same_tokenizer=False)
    spec = DSKDSpec(aligner="kq", kd_rate=1.0)
    plain, weighted = (batch.loss(build(one, batch)) for one in (spec, spec.replace(weights={"kq": 3.0})))
    torch.testing.assert_close(weighted.loss, plain.loss + 2.0 * plain.terms["kq"])


class Undeclared(TeacherSpace):
    """A space as plugins had them before spaces could declare their terms."""

    name: Literal["undeclared"] = "undeclared"  # type: ignore[assignment]
    terms: ClassVar[tuple[str, ...]] = ()


def test_where_terms_are_not_declared_the_first_batch_shows() -> None:
    batch = make_batch(0, same_tokenizer=True)
    assert batch.loss(build(DSKDSpec(spaces=[Undeclared()], weights={"s2t_kd": 2.0}), batch)).loss.isfinite()
    with pytest.raises(ConfigurationError, match=r"weights\['s2t_kl'\].*mean 's2t_kd'.*have s2t_kd"):
        batch.loss(build(DSKDSpec(spaces=[Undeclared()], weights={"s2t_kl": 2.0}), batch))
    with pytest.raises(ValidationError, match="set kd_rate instead"):
        DSKDSpec(spaces=[Undeclared()], weights={"ce": 2.0})


@pytest.mark.parametrize("fields", [{"kd_rate": 0.5}, {"weights": {"s2t_kd": 1}}])
def test_a_schedule_without_a_step(fields: dict[str, Any]) -> None:
    schedule = {"name": "linear", "start": 0, "end": 1, "steps": 10}
    spec = DSKDSpec(**{field: {"s2t_kd": schedule} if field == "weights" else schedule for field in fields})
    batch = make_batch(0, same_tokenizer=True)
    place = "kd_rate" if "kd_rate" in fields else r"weights\['s2t_kd'\]"
    with pytest.raises(InputError, match=rf"step is missing: the spec's {place} follows the schedule 'linear'"):
        batch.loss(build(spec, batch))


def test_a_step_that_is_none_is_refused_even_where_nothing_needs_it() -> None:
    batch = make_batch(0, same_tokenizer=True)
    with pytest.raises(InputError, match=r"step: .*got -1"):
        batch.loss(build(DSKDSpec(), batch), step=-1)


@pytest.mark.parametrize("engine", ENGINES)
def test_without_its_cross_entropy_and_its_space_the_students_head_is_left_alone(engine: str) -> None:
    spec = DSKDSpec(engine=engine, spaces=["teacher"])
    batch = batch_for(spec, 0)
    weights = {"kept": spec.loss_weights(), "left out": LossWeights(cross_entropy=None, distillation=1.0)}
    for name, given_weights in weights.items():
        loss = batch.loss(build(spec, batch), weights=given_weights).loss
        (gradient,) = torch.autograd.grad(loss, [batch.student.head.weight], allow_unused=True)
        assert (gradient is None) == (name == "left out")


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_multiply_those_of_the_components(engine: str) -> None:
    spaces = [{"name": "student", "ce_weight": 2.0, "kd_weight": 0.5}, {"name": "teacher", "weight": 3.0}]
    spec = DSKDSpec(engine=engine, kd_rate=0.25, spaces=spaces, weights={"t2s_ce": 0.5, "s2t_kd": 4.0})
    batch = batch_for(spec, 1)
    out = batch.loss(build(spec, batch))
    terms = out.terms
    distilled = 2.0 * 0.5 * terms["t2s_ce"] + 0.5 * terms["t2s_kd"] + 3.0 * 4.0 * terms["s2t_kd"]
    torch.testing.assert_close(out.loss, 0.75 * terms["ce"] + 0.25 * distilled)


def test_without_its_cross_entropy_tiles_have_no_row_that_nothing_compares(monkeypatch: pytest.MonkeyPatch) -> None:
    original, seen = SideRows.of, []

    def recorded(*arguments: Any, **options: Any) -> SideRows:
        seen.append(original(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(SideRows, "of", recorded)
    spec = DSKDSpec(aligner="span")
    batch = batch_for(spec, 0)
    for weight in (0.5, None):
        batch.loss(build(spec, batch), weights=LossWeights(cross_entropy=weight, distillation=0.5))
    with_all, covered_alone = (rows for rows in seen if rows.side == "student")
    assert len(with_all.targets) == batch.student.scored.sum() > with_all.coverage.covered
    assert len(covered_alone.targets) == covered_alone.coverage.covered == with_all.coverage.covered
