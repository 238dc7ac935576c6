"""Laws of several teachers: one is the single-teacher loss, they add up, and their order makes no difference."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_components import DSKDSpec, LMStates, MultiTeacherLoss, MultiTeacherSpec, TeacherSpec
from dskd_components.spec.dskd_spec import PairSpec
from dskd_components.testing.strategies import spoilt
from tests.helpers.registered import build, specs
from tests.helpers.strategies import SEEDS, Batch, make_batch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dskd_components import DSKDLoss, DSKDOutput

ENGINES = ["tiled", "eager"]
SPECS = {name: spec for name, spec in specs().items() if name.startswith(("preset", "aligner", "space"))}
INVARIANT = {"span": TeacherSpec(aligner="span"), "cma": TeacherSpec(aligner="cma", weight=0.5, distance="js")}


def teacher_spec(spec: DSKDSpec, weight: float = 1.0) -> TeacherSpec:
    return TeacherSpec(**{field: getattr(spec, field) for field in PairSpec.model_fields}, weight=weight)


def several(spec: MultiTeacherSpec, batches: Mapping[str, Batch]) -> MultiTeacherLoss:
    """The loss of batches that have the student in common; every teacher's projectors start alike."""
    return MultiTeacherLoss(spec, {name: build(spec.pair(name), batch) for name, batch in batches.items()})


def run(loss_fn: MultiTeacherLoss, batches: Mapping[str, Batch], **options: Any) -> DSKDOutput:
    student = next(iter(batches.values())).student
    told = {name: batch.groups for name, batch in batches.items() if loss_fn.spec.teachers[name].aligner.text_method}
    out: DSKDOutput = loss_fn(
        student, {name: batch.teacher for name, batch in batches.items()}, alignments=told, **options
    )
    return out


def two_batches(seed: int) -> dict[str, Batch]:
    """A student and two teachers of other widths, vocabularies and lengths."""
    first = make_batch(seed, same_tokenizer=False)
    second = make_batch(seed + 1, same_tokenizer=False, teacher_length=5, teacher_hidden=9, teacher_vocabulary=17)
    first.student.hidden_states.requires_grad_()
    first.student.head.weight.requires_grad_()
    return {"span": first, "cma": replace(second, student=first.student)}


def gradients(loss_fn: torch.nn.Module, student: LMStates, loss: Tensor) -> dict[str, Tensor]:
    parameters = {name.removeprefix("pairs."): parameter for name, parameter in loss_fn.named_parameters()}
    inputs = {"hidden": student.hidden_states, "head": student.head.weight} | parameters
    found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(inputs, found, strict=True))


def close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-7, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SPECS)
def test_one_teacher_of_weight_one_is_the_loss_of_one_teacher(name: str, engine: str) -> None:
    spec = SPECS[name].replace(engine=engine, kd_rate=0.3)
    batch = make_batch(5, same_tokenizer=spec.aligner.same_tokenizer)
    batch.student.hidden_states.requires_grad_()
    batch.student.head.weight.requires_grad_()
    alone: DSKDLoss = build(spec, batch)
    expected = batch.loss(alone, num_items_in_batch=11)
    of_several = MultiTeacherSpec(teachers={"one": teacher_spec(spec)}, kd_rate=0.3, engine=engine)
    assert of_several.pair("one") == spec
    loss_fn = several(of_several, {"one": batch})
    out = run(loss_fn, {"one": batch}, num_items_in_batch=11)
    assert torch.equal(out.loss, expected.loss)
    of_one = {
        f"one.{key}" if "." in key else key: g for key, g in gradients(alone, batch.student, expected.loss).items()
    }
    for key, found in gradients(loss_fn, batch.student, out.loss).items():
        assert torch.equal(found, of_one[key]), key
    for ours, theirs in ((out.terms, expected.terms), (out.counts, expected.counts), (out.metrics, expected.metrics)):
        assert ours == {key if key == "ce" else f"one/{key}": value for key, value in theirs.items()}


@settings(max_examples=15)
@given(seed=SEEDS, first=st.floats(0, 2), second=st.floats(0.1, 2), engine=st.sampled_from(ENGINES))
def test_weights_of_equal_teachers_add_up(seed: int, first: float, second: float, engine: str) -> None:
    batch = two_batches(seed)["span"]
    spec = teacher_spec(DSKDSpec(aligner="cma"))
    twice = MultiTeacherSpec(
        teachers={"a": spec.replace(weight=first), "b": spec.replace(weight=second)}, engine=engine
    )
    once = MultiTeacherSpec(teachers={"a": spec.replace(weight=first + second)}, engine=engine)
    of_two, of_one = several(twice, {"a": batch, "b": batch}), several(once, {"a": batch})
    out, expected = run(of_two, {"a": batch, "b": batch}), run(of_one, {"a": batch})
    torch.testing.assert_close(out.loss, expected.loss)
    found = gradients(of_two, batch.student, out.loss)
    wanted = gradients(of_one, batch.student, expected.loss)
    shared = {name: found[name] for name in ("hidden", "head")}
    projectors = {name: found[name] + found[name.replace("a.", "b.", 1)] for name in wanted if name.startswith("a.")}
    close(shared | projectors, wanted)


@settings(max_examples=10)
@given(seed=SEEDS, kd_rate=st.floats(0, 1))
def test_the_order_of_teachers_makes_no_difference(seed: int, kd_rate: float) -> None:
    batches = two_batches(seed)
    results = []
    for names in (["span", "cma"], ["cma", "span"]):
        spec = MultiTeacherSpec(teachers={name: INVARIANT[name] for name in names}, kd_rate=kd_rate)
        assert spec == MultiTeacherSpec(teachers=INVARIANT, kd_rate=kd_rate)
        loss_fn = several(spec, batches)
        out = run(loss_fn, batches)
        assert sorted(loss_fn.state_dict()) == sorted(several(spec, batches).state_dict())
        results.append((out, gradients(loss_fn, batches["span"].student, out.loss)))
    (first, ours), (second, theirs) = results
    torch.testing.assert_close(first.loss, second.loss)
    assert first.terms.keys() == second.terms.keys()
    assert all(torch.equal(first.counts[name], second.counts[name]) for name in first.counts)
    close(ours, theirs)


@settings(max_examples=10)
@given(seed=SEEDS)
def test_the_loss_is_what_its_formula_says(seed: int) -> None:
    batches = two_batches(seed)
    spec = MultiTeacherSpec(
        kd_rate=0.25,
        teachers={
            "span": INVARIANT["span"].replace(weight=3.0, weights={"t2s_ce": 0.5}),
            "cma": INVARIANT["cma"].replace(weight=0.5),
        },
    )
    out = run(several(spec, batches), batches)
    terms = out.terms
    of_span = 0.5 * terms["span/t2s_ce"] + terms["span/t2s_kd"] + terms["span/s2t_kd"]
    of_cma = terms["cma/t2s_ce"] + terms["cma/t2s_kd"] + terms["cma/s2t_kd"]
    torch.testing.assert_close(out.loss, 0.75 * terms["ce"] + 0.25 * (3.0 * of_span + 0.5 * of_cma))
    assert len(terms) == 7


@settings(max_examples=10)
@given(seed=SEEDS)
def test_tiles_give_what_the_eager_engine_gives(seed: int) -> None:
    batches = two_batches(seed)
    results = []
    for engine in ("eager", {"name": "tiled", "memory_budget_mib": 1e-4}):
        loss_fn = several(MultiTeacherSpec(teachers=INVARIANT, engine=engine), batches)
        out = run(loss_fn, batches)
        results.append((out.loss.detach(), gradients(loss_fn, batches["span"].student, out.loss)))
    torch.testing.assert_close(results[1][0], results[0][0])
    close(results[1][1], results[0][1])


@settings(max_examples=10)
@given(seed=SEEDS)
def test_micro_batches_add_up(seed: int) -> None:
    batches = two_batches(seed)
    loss_fn = several(MultiTeacherSpec(teachers=INVARIANT), batches)
    whole = run(loss_fn, batches)
    scored = batches["span"].student.scored.sum()
    parts = []
    for rows in (slice(0, 1), slice(1, 3)):
        student = batches["span"].student.rows(rows)
        some = {name: replace(batch.rows(rows), student=student) for name, batch in batches.items()}
        parts.append(run(loss_fn, some, num_items_in_batch=scored))
    loss = parts[0].loss + parts[1].loss
    torch.testing.assert_close(loss, whole.loss)
    student = batches["span"].student
    close(gradients(loss_fn, student, loss), gradients(loss_fn, student, whole.loss))
    for name in whole.counts:
        assert parts[0].counts[name] + parts[1].counts[name] == whole.counts[name]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("first", ["span", "cma"])
def test_a_teacher_that_says_nothing_leaves_the_other_alone(engine: str, first: str) -> None:
    batches = two_batches(2)
    other = "cma" if first == "span" else "span"
    silent = replace(batches[first].teacher, targets=torch.full_like(batches[first].teacher.targets, -100))
    quiet = batches | {first: replace(batches[first], teacher=spoilt(silent))}
    teachers = {first: INVARIANT[first], other: INVARIANT[other]}
    loss_fn = several(MultiTeacherSpec(teachers=teachers, engine=engine), batches)
    out = run(loss_fn, quiet)
    alone = several(MultiTeacherSpec(teachers={other: INVARIANT[other]}, engine=engine), {other: batches[other]})
    expected = run(alone, {other: batches[other]})
    torch.testing.assert_close(out.loss, expected.loss)
    found = gradients(loss_fn, batches["span"].student, out.loss)
    assert not any(gradient.any() for name, gradient in found.items() if name.startswith(first))
    rest = {name: gradient for name, gradient in found.items() if not name.startswith(first)}
    close(rest, gradients(alone, batches["span"].student, expected.loss))
    assert all(out.counts[name] == 0 for name in out.terms if name.startswith(first))


def test_a_teacher_may_say_nothing_of_one_sample() -> None:
    batches = two_batches(3)
    batches["cma"].teacher.targets[1] = -100
    out = run(several(MultiTeacherSpec(teachers=INVARIANT), batches), batches)
    scored = batches["span"].student.scored
    assert out.counts["ce"] == scored.sum()
    assert out.counts["cma/t2s_ce"] == scored[[0, 2]].sum()


def test_the_cross_entropy_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from dskd_components.engines import eager

    computed = []
    original = eager.token_cross_entropy
    monkeypatch.setattr(eager, "token_cross_entropy", lambda *a: computed.append(1) or original(*a))
    batches = two_batches(0)
    out = run(several(MultiTeacherSpec(teachers=INVARIANT, engine="eager"), batches), batches)
    assert len(computed) == 1
    assert [name for name in out.terms if name.endswith("ce")] == ["ce", "span/t2s_ce", "cma/t2s_ce"]


def test_inputs_are_not_changed_and_teachers_get_no_gradient() -> None:
    batches = two_batches(0)
    everyone = [batches["span"].student, *(batch.teacher for batch in batches.values())]
    for batch in batches.values():
        batch.teacher.hidden_states.requires_grad_()
        batch.teacher.head.weight.requires_grad_()
    before = [(s.hidden_states.detach().clone(), s.targets.clone(), s.head.weight.detach().clone()) for s in everyone]
    run(several(MultiTeacherSpec(teachers=INVARIANT), batches), batches).loss.backward()
    for states, (hidden, targets, weight) in zip(everyone, before, strict=True):
        assert torch.equal(states.hidden_states, hidden)
        assert torch.equal(states.targets, targets)
        assert torch.equal(states.head.weight, weight)
    assert all(batch.teacher.hidden_states.grad is None for batch in batches.values())
    assert all(batch.teacher.head.weight.grad is None for batch in batches.values())


@settings(max_examples=10)
@given(seed=SEEDS, step=st.integers(0, 12))
def test_schedules_are_the_constants_of_their_step(seed: int, step: int) -> None:
    batches = two_batches(seed)
    rise, fall = ({"name": "linear", "start": start, "end": 1 - start, "steps": 10} for start in (0, 1))
    spec = MultiTeacherSpec(
        kd_rate={"name": "cosine", "start": 1, "end": 0.2, "steps": 10},  # type: ignore[arg-type]
        teachers={
            "span": INVARIANT["span"].replace(weight=fall),
            "cma": INVARIANT["cma"].replace(weights={"s2t_kd": rise}),
        },
    )
    now = spec.at(step)
    assert now.at(0) == now
    scheduled, constant = run(several(spec, batches), batches, step=step), run(several(now, batches), batches)
    assert torch.equal(scheduled.loss, constant.loss)
    assert scheduled.terms == constant.terms


def test_half_precision_states_collect_gradients_in_full_precision() -> None:
    """The student's states are widened once, so gradients of several teachers are rounded once, when all are added."""
    options: dict[str, Any] = {"same_tokenizer": False, "dtype": torch.bfloat16, "at_least": 6}
    given = {name: make_batch(number, **options) for number, name in enumerate(INVARIANT)}
    found = []
    for widen in (False, True):
        student = given["span"].student
        hidden = student.hidden_states.float() if widen else student.hidden_states.clone()
        student = replace(student, hidden_states=hidden.requires_grad_())
        batches = {name: replace(batch, student=student) for name, batch in given.items()}
        loss = run(several(MultiTeacherSpec(teachers=INVARIANT, engine="eager"), batches), batches).loss
        found.append(torch.autograd.grad(loss, student.hidden_states)[0])
    assert found[0].dtype == torch.bfloat16
    assert torch.equal(found[0], found[1].bfloat16())
