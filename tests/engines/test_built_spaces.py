"""Distances and spaces with parameters, and terms over groups: the tiled engine gives what the eager one gives."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_components import (
    ConfigurationError,
    DSKDLoss,
    DSKDSpec,
    Head,
    MultiTeacherLoss,
    MultiTeacherSpec,
    TeacherSpec,
)
from dskd_components.spaces import SharedVocabularySpace, StudentSpace, TeacherSpace
from tests.helpers.correct_components import (
    LearnedScale,
    LearnedSpans,
    LearnedWeights,
    ProjectedSpans,
    SpaceWithModule,
    SpanLikelihood,
)
from tests.helpers.naive import naive_span_term
from tests.helpers.registered import build
from tests.helpers.strategies import SEEDS, Batch, make_batch
from tests.helpers.tiled_steps import SMALL, Watch

if TYPE_CHECKING:
    from torch import Tensor

SPACES: dict[str, tuple[Any, ...]] = {
    "student and teacher": (StudentSpace(), TeacherSpace()),
    "own distances": (StudentSpace(distance=LearnedWeights()), TeacherSpace(distance="kl")),
    "filtered": (StudentSpace(filter="correct", kd_denominator="kept"), "teacher"),
    "module and shared tokens": (SpaceWithModule(), "teacher"),
    "one vocabulary": (SharedVocabularySpace(),),
    "groups": (SpanLikelihood(),),
    "groups of projected states": (ProjectedSpans(), LearnedSpans()),
    "all together": ("student", SpanLikelihood(denominator="scored"), ProjectedSpans(), SpaceWithModule()),
}
FOR_TWO = ["student and teacher", "module and shared tokens", "groups", "groups of projected states", "all together"]


def learning(batch: Batch) -> Batch:
    student = batch.student
    head = Head(student.head.weight.detach().clone().requires_grad_())
    states = student.hidden_states.detach().clone().requires_grad_()
    return replace(batch, student=replace(student, hidden_states=states, head=head))


def trained(loss_fn: DSKDLoss, seed: int) -> DSKDLoss:
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    with torch.no_grad():
        for parameter in loss_fn.spaces.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return loss_fn


def step(spec: DSKDSpec, batch: Batch, seed: int = 0, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """All that comes out of a step, with all gradients."""
    loss_fn = trained(build(spec, batch, seed=seed), seed)
    loss_fn.spaces.to(dtype or batch.student.hidden_states.dtype)
    batch = learning(batch)
    out = batch.loss(loss_fn)
    out.loss.backward()
    found = {"loss": out.loss.detach(), **out.terms, **out.metrics}
    found |= {f"{name} count": count.double() for name, count in out.counts.items()}
    found["states"], found["head"] = batch.student.hidden_states.grad, batch.student.head.weight.grad
    for name, parameter in loss_fn.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad
    return found


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("spaces", SPACES)
@settings(max_examples=4)
@given(seed=SEEDS)
def test_tiled_equals_eager(spaces: str, reduction: Any, seed: int) -> None:
    spec = DSKDSpec(
        distance=LearnedScale(),
        spaces=SPACES[spaces],
        aligner="span" if spaces in FOR_TWO[1:] else "identity",
        temperature=1.5,
        teacher_temperature=1.2,
        temperature_squared=True,
        reduction=reduction,
    )
    batch = make_batch(seed, same_tokenizer=spec.aligner.same_tokenizer, student_length=9, teacher_length=12)
    eager, tiled = (step(spec.replace(engine=engine), batch) for engine in ("eager", SMALL))
    torch.testing.assert_close(tiled, eager)


def test_the_parameters_of_a_loss_are_those_of_its_spaces() -> None:
    spec = DSKDSpec(distance=LearnedWeights(), spaces=["student", TeacherSpace(distance=LearnedScale())])
    loss_fn = build(spec, make_batch(0, same_tokenizer=True))
    assert sorted(name for name, _ in loss_fn.spaces.named_parameters()) == [
        "student.distances.learned_weights.log_scale",
        "student.distances.learned_weights.logits",
        "teacher.distances.learned_scale.mixed.bias",
        "teacher.distances.learned_scale.mixed.weight",
    ]
    assert [name for name, _ in loss_fn.spaces.named_buffers()] == ["student.distances.learned_weights.factor"]


def test_weights_have_an_entry_for_each_compared_token() -> None:
    batch = make_batch(0, same_tokenizer=False)
    spec = DSKDSpec(distance=LearnedWeights(), spaces=["student", "teacher", SpaceWithModule()], aligner="span")
    ids = torch.full((13,), -1)
    ids[[1, 4, 7]] = torch.tensor([9, 2, 9])  # two tokens of the teacher stand for one of the student
    shapes = {name: list(leaf.shape) for name, leaf in build(spec, batch, mapping=ids).spaces.named_parameters()}
    assert shapes["student.distances.learned_weights.logits"] == [11]
    assert shapes["teacher.distances.learned_weights.logits"] == [13]
    assert shapes["space_with_module.distances.learned_weights.logits"] == [2]


@pytest.mark.parametrize("spaces", ["student and teacher", "all together"])
@pytest.mark.parametrize("engine", ["eager", SMALL])
def test_halves_are_summed_in_full_precision(spaces: str, engine: Any) -> None:
    """Parameters in bfloat16 get the gradients of the same numbers in float32, rounded once at the end."""
    aligner = "span" if spaces in FOR_TWO[1:] else "identity"
    spec = DSKDSpec(distance=LearnedWeights(), spaces=SPACES[spaces], aligner=aligner, engine=engine)
    sizes: dict[str, Any] = {"student_length": 40, "teacher_length": 50}
    batch = make_batch(2, same_tokenizer=aligner == "identity", dtype=torch.float32, **sizes)
    loss_fn = trained(build(spec, batch), 3)
    loss_fn.spaces.bfloat16()
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        loss_fn.spaces.to(dtype)
        loss_fn.zero_grad()
        out = batch.loss(loss_fn)
        out.loss.backward()
        found.append((out.loss.detach(), [parameter.grad for parameter in loss_fn.spaces.parameters()]))
        assert out.loss.dtype == torch.float32
    torch.testing.assert_close(found[0][0], found[1][0])
    for half, full in zip(found[0][1], found[1][1], strict=True):
        assert torch.equal(half, full.bfloat16())


@pytest.mark.parametrize("engine", ["eager", SMALL])
def test_micro_batches_add_up(engine: Any) -> None:
    spec = DSKDSpec(
        distance=LearnedScale(), spaces=["student", SpanLikelihood(denominator="scored")], aligner="span", engine=engine
    )
    batch = learning(make_batch(4, same_tokenizer=False))
    loss_fn = trained(build(spec, batch), 1)
    leaves = [batch.student.hidden_states, *loss_fn.parameters()]
    items = batch.student.scored.sum()
    whole = torch.autograd.grad(batch.loss(loss_fn).loss, leaves)
    parts = [batch.rows(slice(row, row + 1)).loss(loss_fn, num_items_in_batch=items).loss for row in range(3)]
    torch.testing.assert_close(torch.autograd.grad(torch.stack(parts).sum(), leaves), whole)


@pytest.mark.parametrize("engine", ["eager", SMALL])
def test_what_is_not_used_or_weighs_nothing_gets_zeros(engine: Any) -> None:
    """Data parallelism waits for a gradient of each parameter."""
    for fields in ({"spaces": [SpanLikelihood(), "uld"]}, {"weights": {"t2s_kd": 0, "s2t_kd": 0, "t2s_ce": 0}}):
        spec = DSKDSpec(**({"distance": LearnedScale(), "aligner": "span", "engine": engine} | fields))
        batch = make_batch(4, same_tokenizer=False)
        loss_fn = build(spec, batch)
        batch.loss(loss_fn).loss.backward()
        assert all(parameter.grad is not None for parameter in loss_fn.spaces.parameters())
        assert not any(parameter.grad.any() for parameter in loss_fn.spaces.parameters())


def test_without_gradients_the_values_are_the_same() -> None:
    for spaces in ("student and teacher", "all together"):
        aligner = "span" if spaces in FOR_TWO[1:] else "identity"
        spec = DSKDSpec(distance=LearnedScale(), spaces=SPACES[spaces], aligner=aligner, engine=SMALL)
        batch = make_batch(6, same_tokenizer=aligner == "identity")
        loss_fn = build(spec, batch)
        expected = batch.loss(loss_fn)
        with torch.no_grad():
            found = batch.loss(loss_fn)
        assert not found.loss.requires_grad
        torch.testing.assert_close(found.loss, expected.loss.detach())
        torch.testing.assert_close(found.terms, expected.terms)


@pytest.mark.parametrize("engine", ["eager", SMALL])
def test_several_teachers_are_the_sum_of_single_losses(engine: Any) -> None:
    teachers = {
        "a": TeacherSpec(aligner="span", distance=LearnedWeights(), spaces=["student", SpanLikelihood()]),
        "b": TeacherSpec(aligner="span", spaces=[LearnedSpans(), ProjectedSpans()], weight=0.3),
    }
    spec = MultiTeacherSpec(teachers=teachers, engine=engine, kd_rate=1.0)
    batches = {name: make_batch(number, same_tokenizer=False) for number, name in enumerate(teachers)}
    student = learning(batches["a"]).student
    pairs = {name: trained(build(spec.pair(name), batch), 5) for name, batch in batches.items()}
    loss_fn = MultiTeacherLoss(spec, pairs)
    groups = {name: batch.groups for name, batch in batches.items()}
    out = loss_fn(student, {name: batch.teacher for name, batch in batches.items()}, alignments=groups)
    leaves = [student.hidden_states, student.head.weight, *loss_fn.parameters()]
    found = torch.autograd.grad(out.loss, leaves)
    alone = [
        spec.teachers[name].weight * pairs[name](student, batches[name].teacher, alignment=groups[name]).loss
        for name in teachers
    ]
    torch.testing.assert_close(torch.stack(alone).sum(), out.loss)
    torch.testing.assert_close(torch.autograd.grad(torch.stack(alone).sum(), leaves), found)


@settings(max_examples=10)
@given(seed=SEEDS, temperature=st.sampled_from([1.0, 2.0]))
def test_sums_over_groups_are_those_of_a_loop(seed: int, temperature: float) -> None:
    batch = make_batch(seed, same_tokenizer=False)
    for engine in ("eager", SMALL):
        spec = DSKDSpec(
            spaces=[SpanLikelihood()], aligner="span", temperature=temperature, engine=engine, reduction="sum"
        )
        out = batch.loss(build(spec, batch))
        expected, count = naive_span_term(batch, temperature)
        torch.testing.assert_close(out.terms["spans"], expected)
        assert int(out.counts["spans"]) == count


@pytest.mark.parametrize("engine", ["eager", SMALL])
@pytest.mark.parametrize("spaces", ["groups", "groups of projected states"])
def test_groups_read_narrowed_heads(spaces: str, engine: Any) -> None:
    """Targets of a narrowed head are its outcomes: in another order, all tokens give what the whole head gives."""
    spec, batch = DSKDSpec(spaces=SPACES[spaces], aligner="span", engine=engine), make_batch(3, same_tokenizer=False)
    whole = batch.loss(build(spec, batch))
    sides = (batch.student, batch.teacher)
    reordered, few = (
        replace(batch, student=student, teacher=teacher)
        for student, teacher in (
            [
                replace(states, head=states.head.narrowed(range(states.head.token_count)[::-1][:kept], others=others))
                for states in sides
            ]
            for kept, others in ((None, "left_out"), (4, "one_outcome"))
        )
    )
    torch.testing.assert_close(reordered.loss(build(spec, batch)).terms, whole.terms)
    eager = few.loss(build(spec.replace(engine="eager"), batch))
    torch.testing.assert_close(few.loss(build(spec, batch)).terms, eager.terms)


@pytest.mark.parametrize("space", [SpanLikelihood(), ProjectedSpans(), LearnedSpans()], ids=str)
def test_soft_alignments_have_no_groups(space: Any) -> None:
    batch = make_batch(0, same_tokenizer=False)
    soft = DSKDSpec(spaces=[space], aligner="cma")
    with pytest.raises(ConfigurationError, match=rf"^The space '{space.name}' needs .* 'cma' weighs .* 'span'"):
        build(soft, batch)


@pytest.mark.parametrize("engine", ["eager", SMALL])
def test_an_alignment_without_groups_is_refused(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpanLikelihood, "needs_hard_alignment", False)  # which an author may say
    spec = DSKDSpec(spaces=[SpanLikelihood()], aligner="cma", engine=engine)
    batch = make_batch(0, same_tokenizer=False)
    with pytest.raises(ConfigurationError, match=r"'span_likelihood' sums over the groups .* has none"):
        batch.loss(build(spec, batch))


@pytest.mark.parametrize("engine", ["eager", SMALL])
def test_terms_of_an_aligner_are_enough(engine: Any) -> None:
    spec = DSKDSpec(spaces=[], aligner="kq", engine=engine)
    batch = make_batch(0, same_tokenizer=False)
    loss_fn = build(spec, batch)
    out = batch.loss(loss_fn)
    out.loss.backward()
    assert set(out.terms) == {"ce", "kq"}
    assert all(parameter.grad is not None for parameter in loss_fn.parameters())
    assert DSKDSpec.model_validate_json(spec.model_dump_json()) == spec


def test_logits_of_groups_keep_to_the_budget() -> None:
    vocabulary = 4000
    sizes: dict[str, Any] = {"student_vocabulary": vocabulary, "teacher_vocabulary": vocabulary, "batch": 4}
    batch = make_batch(1, same_tokenizer=False, dtype=torch.float32, student_length=150, teacher_length=150, **sizes)
    engine = {"name": "tiled", "memory_budget_mib": 1.0, "products": "torch"}
    loss_fn = build(DSKDSpec(spaces=[SpanLikelihood(), ProjectedSpans()], aligner="span", engine=engine), batch)
    with Watch(vocabulary) as watch:
        batch.loss(loss_fn).loss.backward()
    assert 0 < watch.largest <= 2**20
