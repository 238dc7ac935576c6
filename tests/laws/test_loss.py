"""What the loss must obey, for every preset and for every registered component inside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dskd_components import DSKDLoss, DSKDOutput, DSKDSpec, LMStates
from dskd_components.spec.presets import PRESETS
from dskd_components.testing.strategies import spoilt
from tests.helpers.registered import build, specs
from tests.helpers.strategies import SEEDS, Batch, make_batch

ALL = specs()
INVARIANT = specs(split_invariant=True)

every_spec = pytest.mark.parametrize("spec", ALL.values(), ids=ALL.keys())
every_split_invariant_spec = pytest.mark.parametrize("spec", INVARIANT.values(), ids=INVARIANT.keys())
few = settings(max_examples=6)


def with_leaves(batch: Batch) -> tuple[Batch, list[Tensor]]:
    """The batch with everything of the student that can learn as leaves of the graph."""
    hidden = batch.student.hidden_states.detach().clone().requires_grad_()
    weight = batch.student.head.weight.detach().clone().requires_grad_()
    student = replace(batch.student, hidden_states=hidden, head=replace(batch.student.head, weight=weight))
    return replace(batch, student=student), [hidden, weight]


def gradients(loss_fn: DSKDLoss, out: DSKDOutput, leaves: list[Tensor]) -> list[Tensor]:
    return list(
        torch.autograd.grad(
            out.loss, [*leaves, *loss_fn.parameters()], allow_unused=True, materialize_grads=True, retain_graph=True
        )
    )


def equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@every_spec
@few
@given(seed=SEEDS, left=st.integers(0, 3), right=st.integers(0, 3), garbage=st.sampled_from([0.0, 1e6, float("nan")]))
def test_padding_never_changes_loss_or_gradients(
    spec: DSKDSpec, seed: int, left: int, right: int, garbage: float
) -> None:
    batch, leaves = with_leaves(make_batch(seed, same_tokenizer=spec.aligner.same_tokenizer))
    loss_fn = build(spec, batch)
    plain = batch.loss(loss_fn)
    teacher_left = left if spec.aligner.same_tokenizer else right
    teacher_right = right if spec.aligner.same_tokenizer else left
    wide = batch.padded((left, right), (teacher_left, teacher_right), garbage).loss(loss_fn)
    torch.testing.assert_close(wide.loss, plain.loss)
    equal(gradients(loss_fn, wide, leaves), gradients(loss_fn, plain, leaves))


@every_spec
@few
@given(seed=SEEDS)
def test_what_unscored_positions_hold_never_matters(spec: DSKDSpec, seed: int) -> None:
    batch, leaves = with_leaves(make_batch(seed, same_tokenizer=spec.aligner.same_tokenizer))
    loss_fn = build(spec, batch)
    plain = batch.loss(loss_fn)
    other = replace(batch, student=spoilt(batch.student), teacher=spoilt(batch.teacher)).loss(loss_fn)
    assert torch.equal(other.loss, plain.loss)
    equal(gradients(loss_fn, other, leaves), gradients(loss_fn, plain, leaves))


@every_split_invariant_spec
@few
@given(seed=SEEDS, cut=st.integers(1, 3))
def test_micro_batches_add_up_to_the_batch(spec: DSKDSpec, seed: int, cut: int) -> None:
    batch, leaves = with_leaves(make_batch(seed, same_tokenizer=spec.aligner.same_tokenizer, batch=4))
    loss_fn = build(spec, batch)
    scored = batch.student.scored.sum()
    whole = batch.loss(loss_fn, num_items_in_batch=scored)
    parts = [batch.rows(rows).loss(loss_fn, num_items_in_batch=scored) for rows in (slice(0, cut), slice(cut, 4))]
    torch.testing.assert_close(parts[0].loss + parts[1].loss, whole.loss)
    for name in whole.terms:
        torch.testing.assert_close(parts[0].terms[name] + parts[1].terms[name], whole.terms[name])
        assert parts[0].counts[name] + parts[1].counts[name] == whole.counts[name]
    summed = [
        first + second
        for first, second in zip(
            gradients(loss_fn, parts[0], leaves), gradients(loss_fn, parts[1], leaves), strict=True
        )
    ]
    equal(summed, gradients(loss_fn, whole, leaves))


@every_spec
@few
@given(seed=SEEDS)
def test_the_order_of_samples_changes_nothing(spec: DSKDSpec, seed: int) -> None:
    batch = make_batch(seed, same_tokenizer=spec.aligner.same_tokenizer)
    loss_fn = build(spec, batch)
    order = torch.randperm(3, generator=torch.Generator(torch.get_default_device()).manual_seed(seed))

    plain = batch.loss(loss_fn)
    other = batch.rows(order).loss(loss_fn)
    torch.testing.assert_close(other.loss, plain.loss)


@every_split_invariant_spec
@few
@given(seed=SEEDS)
def test_packed_rows_equal_separate_samples(spec: DSKDSpec, seed: int) -> None:
    batch, leaves = with_leaves(make_batch(seed, same_tokenizer=spec.aligner.same_tokenizer))
    loss_fn = build(spec, batch)

    separate = batch.loss(loss_fn)
    together = batch.packed().loss(loss_fn)
    torch.testing.assert_close(together.loss, separate.loss)
    equal(gradients(loss_fn, together, leaves), gradients(loss_fn, separate, leaves))


@every_spec
def test_inputs_and_parameters_are_not_changed(spec: DSKDSpec) -> None:
    batch = make_batch(0, same_tokenizer=spec.aligner.same_tokenizer)
    loss_fn = build(spec, batch)

    def all_tensors() -> list[Tensor]:
        sides = [
            tensor
            for states in (batch.student, batch.teacher)
            for tensor in (states.hidden_states, states.targets, states.input_ids, states.embedding, states.head.weight)
            if tensor is not None
        ]
        return [tensor.detach().clone() for tensor in (*sides, *loss_fn.parameters(), *loss_fn.buffers())]

    before = all_tensors()
    with_leaves(batch)[0].loss(loss_fn).loss.backward()
    for ours, theirs in zip(all_tensors(), before, strict=True):
        assert torch.equal(ours, theirs)


@every_spec
@pytest.mark.parametrize("side", ["both", "teacher"])
def test_nothing_scored_is_a_zero_that_keeps_its_graph(spec: DSKDSpec, side: str) -> None:
    batch, leaves = with_leaves(make_batch(0, same_tokenizer=spec.aligner.same_tokenizer))
    loss_fn = build(spec, batch)
    nothing = torch.full_like(batch.teacher.targets, -100)
    teacher = replace(batch.teacher, targets=nothing)
    student = (
        batch.student
        if side == "teacher"
        else replace(batch.student, targets=torch.full_like(batch.student.targets, -100))
    )
    out = replace(batch, student=student, teacher=teacher).loss(loss_fn)
    out.loss.backward()
    if side == "both":
        assert out.loss.item() == 0
        assert all((leaf.grad == 0).all() for leaf in leaves if leaf.grad is not None)
    else:
        # The student's own cross entropy is all that is left.
        torch.testing.assert_close(out.loss, (1 - spec.kd_rate) * out.terms["ce"])
    assert leaves[0].grad is not None
    assert leaves[1].grad is not None
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss_fn.parameters())


@every_spec
def test_the_teacher_gets_no_gradient(spec: DSKDSpec) -> None:
    batch = make_batch(0, same_tokenizer=spec.aligner.same_tokenizer)
    teacher = replace(
        batch.teacher,
        hidden_states=batch.teacher.hidden_states.clone().requires_grad_(),
        head=replace(batch.teacher.head, weight=batch.teacher.head.weight.clone().requires_grad_()),
    )
    student = with_leaves(batch)[0].student
    replace(batch, student=student, teacher=teacher).loss(build(spec, batch)).loss.backward()
    assert teacher.hidden_states.grad is None
    assert teacher.head.weight.grad is None


@every_spec
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(spec: DSKDSpec, dtype: torch.dtype) -> None:
    half = make_batch(1, same_tokenizer=spec.aligner.same_tokenizer, dtype=dtype)
    single = replace(half, student=in_dtype(half.student, torch.float32), teacher=in_dtype(half.teacher, torch.float32))
    loss_fn = build(spec, single)
    with torch.autocast(half.student.hidden_states.device.type, dtype=torch.bfloat16):
        (half, half_leaves) = with_leaves(half)
        found = half.loss(loss_fn)
    (single, leaves) = with_leaves(single)
    expected = single.loss(loss_fn)
    assert found.loss.dtype == torch.float32
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-6, atol=1e-6)
    assert all(value >= 0 for value in found.terms.values())
    for ours, theirs in zip(gradients(loss_fn, found, half_leaves), gradients(loss_fn, expected, leaves), strict=True):
        # The gradient of a half-precision leaf is itself rounded to half precision.
        torch.testing.assert_close(ours.float(), theirs, rtol=1e-2, atol=1e-4)


@every_spec
def test_autocast_does_not_reach_the_loss(spec: DSKDSpec) -> None:
    """Bounds the error of float32 against float64 too."""
    batch = make_batch(6, same_tokenizer=spec.aligner.same_tokenizer, dtype=torch.float32)
    double = replace(batch, student=in_dtype(batch.student), teacher=in_dtype(batch.teacher))
    loss_fn = build(spec, batch)
    with torch.autocast(batch.student.hidden_states.device.type, dtype=torch.bfloat16):
        found = batch.loss(loss_fn)
    expected = double.loss(build(spec, batch).double())
    torch.testing.assert_close(found.loss.double(), expected.loss, rtol=1e-4, atol=1e-5)


def in_dtype(states: LMStates, dtype: torch.dtype = torch.float64) -> LMStates:
    assert states.embedding is not None
    return replace(
        states,
        hidden_states=states.hidden_states.to(dtype),
        embedding=states.embedding.to(dtype),
        head=replace(states.head, weight=states.head.weight.to(dtype)),
    )


@every_spec
def test_padded_vocabularies_change_nothing(spec: DSKDSpec) -> None:
    batch, leaves = with_leaves(make_batch(2, same_tokenizer=spec.aligner.same_tokenizer))

    def widened(states: LMStates, rows: int) -> LMStates:
        size = states.head.vocabulary_size
        weight = torch.cat([states.head.weight, torch.full((rows, states.head.hidden_size), 99.0).double()])
        return replace(states, head=replace(states.head, weight=weight, valid_vocabulary_size=size))

    plain = batch.loss(build(spec, batch))
    wide_batch = replace(batch, student=widened(batch.student, 5), teacher=widened(batch.teacher, 2))
    wide = wide_batch.loss(build(spec, wide_batch))
    torch.testing.assert_close(wide.loss, plain.loss)
    for ours, theirs in zip(
        torch.autograd.grad(wide.loss, leaves), torch.autograd.grad(plain.loss, leaves), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@every_spec
def test_ruled_out_tokens_change_nothing(spec: DSKDSpec) -> None:
    """Padding rows masked by a bias of minus infinity, as some models do."""
    batch = make_batch(2, same_tokenizer=spec.aligner.same_tokenizer)

    def masked(states: LMStates, rows: int) -> LMStates:
        weight = torch.cat([states.head.weight, torch.zeros(rows, states.head.hidden_size).double()])
        bias = torch.cat([torch.zeros(len(states.head.weight)), torch.full((rows,), -torch.inf)]).double()
        return replace(states, head=replace(states.head, weight=weight, bias=bias))

    plain_loss = build(spec, batch)
    plain_batch, leaves = with_leaves(batch)
    plain = plain_batch.loss(plain_loss)
    masked_batch, masked_leaves = with_leaves(
        replace(batch, student=masked(batch.student, 3), teacher=masked(batch.teacher, 3))
    )
    mapping = plain_loss.teacher_to_student_ids
    if mapping is not None:
        mapping = torch.cat([mapping, mapping.new_full((3,), -1)])
    masked_loss = build(spec, masked_batch, mapping=mapping)
    out = masked_batch.loss(masked_loss)
    torch.testing.assert_close(out.loss, plain.loss, rtol=1e-6, atol=1e-9)
    (hidden,) = torch.autograd.grad(plain.loss, leaves[:1])
    (masked_hidden,) = torch.autograd.grad(out.loss, masked_leaves[:1])
    torch.testing.assert_close(masked_hidden, hidden, rtol=1e-6, atol=1e-9)


@every_spec
@pytest.mark.parametrize("magnitude", [1e4, 1e-8, 0.0])
def test_extreme_hidden_states_give_finite_loss_and_gradients(spec: DSKDSpec, magnitude: float) -> None:
    batch = make_batch(3, same_tokenizer=spec.aligner.same_tokenizer, dtype=torch.float32)
    scaled = replace(
        batch,
        **{
            side: replace(states, hidden_states=states.hidden_states * magnitude)
            for side, states in (("student", batch.student), ("teacher", batch.teacher))
        },
    )
    scaled, leaves = with_leaves(scaled)
    loss_fn = build(spec, scaled)
    out = scaled.loss(loss_fn)
    assert out.loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(loss_fn, out, leaves))
    assert all(value.isfinite() for value in out.metrics.values())


@every_spec
def test_the_loss_is_differentiated_correctly(spec: DSKDSpec) -> None:
    # Every entry is moved on its own, so sizes are as small as they go.
    batch = make_batch(
        4,
        same_tokenizer=spec.aligner.same_tokenizer,
        batch=2,
        student_length=3,
        teacher_length=4,
        student_hidden=3,
        teacher_hidden=4,
    )
    if not spec.distance.gradient_is_derivative:
        return
    loss_fn = build(spec, batch)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        student = replace(batch.student, hidden_states=hidden, head=replace(batch.student.head, weight=weight))
        return replace(batch, student=student).loss(loss_fn).loss

    hidden = batch.student.hidden_states.clone().requires_grad_()
    # The head is a constant where projected states are read, so only the hidden states' gradient is a derivative.
    # Cut from the graph, projected teacher states do not depend on them.
    assert torch.autograd.gradcheck(loss, (hidden, batch.student.head.weight), atol=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_temperature_squared_scales_distances_alone(name: str) -> None:
    plain_spec = DSKDSpec.preset(name, temperature=3.0)
    batch = make_batch(5, same_tokenizer=plain_spec.aligner.same_tokenizer)
    plain = batch.loss(build(plain_spec, batch))
    squared = batch.loss(build(plain_spec.replace(temperature_squared=True), batch))
    for term, value in plain.terms.items():
        factor = 9.0 if term.endswith("kd") else 1.0
        torch.testing.assert_close(squared.terms[term], factor * value)


def test_means_over_kept_tokens_are_weighted_by_scored_tokens() -> None:
    """With a denominator of the caller's, such a mean counts for the share of its batch among all scored tokens."""
    spec = DSKDSpec.preset("dskd-v2")
    batch = make_batch(8, same_tokenizer=True)
    loss_fn = build(spec, batch)
    scored = batch.student.scored.sum()
    alone = batch.loss(loss_fn)
    among = batch.loss(loss_fn, num_items_in_batch=4 * scored)
    for name, value in alone.terms.items():
        torch.testing.assert_close(among.terms[name], value / 4)


@every_spec
@few
@given(seed=SEEDS)
def test_shares_are_between_zero_and_one(spec: DSKDSpec, seed: int) -> None:
    batch = make_batch(seed, same_tokenizer=spec.aligner.same_tokenizer)
    metrics = batch.loss(build(spec, batch)).metrics
    assert all(value >= 0 for value in metrics.values())
    assert all(value <= 1 for name, value in metrics.items() if not name.endswith(("entropy", "ce_covered")))
