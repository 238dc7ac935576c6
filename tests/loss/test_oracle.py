"""The loss against loops that share no code with it, on random shapes, values and gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from dskd_components import DSKDSpec, Head
from tests.helpers.naive import divergence, dskd_cma, log_softmax
from tests.helpers.registered import build
from tests.helpers.strategies import SEEDS, Batch, make_batch

SHAPES = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "student_length": st.integers(1, 4),
        "teacher_length": st.integers(1, 5),
        "student_hidden": st.integers(2, 4),
        "teacher_hidden": st.integers(2, 4),
        "student_vocabulary": st.integers(2, 5),
        "teacher_vocabulary": st.integers(2, 6),
    }
)
DISTANCES = st.sampled_from(["kl", "reverse_kl", "js", "skew_kl", "skew_reverse_kl"])


def leaves_of(batch: Batch) -> tuple[Batch, list[Tensor]]:
    hidden = batch.student.hidden_states.clone().requires_grad_()
    weight = batch.student.head.weight.clone().requires_grad_()
    student = replace(batch.student, hidden_states=hidden, head=Head(weight))
    return replace(batch, student=student), [hidden, weight]


@pytest.mark.parametrize("std", ["batch", "sample"])
@settings(max_examples=25)
@given(seed=SEEDS, shape=SHAPES, distance=DISTANCES, temperature=st.sampled_from([1.0, 2.5]))
def test_cross_model_attention(std: str, seed: int, shape: dict[str, int], distance: str, temperature: float) -> None:
    spec = DSKDSpec.preset(
        "dskd-cma",
        distance=distance,
        aligner={"name": "cma", "std": std},
        temperature=temperature,
        teacher_temperature=1.5,
        kd_rate=0.3,
        reduction="sum",
    )
    batch, leaves = leaves_of(make_batch(seed, same_tokenizer=False, **shape))
    loss_fn = build(spec, batch, seed=seed)
    out = loss_fn(batch.student, batch.teacher)
    expected = dskd_cma(loss_fn, batch, spec)
    for name, value in expected.items():
        torch.testing.assert_close(out.terms[name], value.detach(), rtol=1e-8, atol=1e-10)
    total = 0.7 * expected["ce"] + 0.3 * (expected["t2s_ce"] + expected["t2s_kd"] + expected["s2t_kd"])
    wanted = [*leaves, *loss_fn.parameters()]
    found = torch.autograd.grad(out.loss, wanted)
    for ours, theirs in zip(found, torch.autograd.grad(total, wanted), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10)


@settings(max_examples=25)
@given(seed=SEEDS, distance=DISTANCES, threshold=st.sampled_from([0.0, 0.3, 1.0]))
def test_teacher_choices_agreement_and_means(seed: int, distance: str, threshold: float) -> None:
    spec = DSKDSpec(
        distance=distance,
        temperature=2.0,
        spaces=(
            {
                "name": "student",
                "targets": "teacher_argmax",
                "filter": "agreement",
                "agreement_threshold": threshold,
                "ce_denominator": "kept",
                "kd_denominator": "kept",
            },
            {"name": "teacher", "denominator": "kept"},
        ),
    )
    batch, _ = leaves_of(make_batch(seed, same_tokenizer=True, student_vocabulary=4))
    student, teacher = batch.student, batch.teacher
    loss_fn = build(spec, batch, seed=seed)
    t2s, s2t = loss_fn.projectors["t2s"], loss_fn.projectors["s2t"]
    ce, kd, agrees, back = [], [], [], []
    for b, i in student.scored.nonzero().tolist():
        own = student.head.weight @ student.hidden_states[b, i]
        theirs = teacher.head.weight @ teacher.hidden_states[b, i]
        projected = student.head.weight.detach() @ (t2s.weight @ teacher.hidden_states[b, i] + t2s.bias)
        returned = teacher.head.weight @ (s2t.weight @ student.hidden_states[b, i] + s2t.bias)
        ce.append(-log_softmax(projected)[theirs.argmax()])
        agrees.append(bool(projected.argmax() == theirs.argmax()))
        kd.append(divergence(distance, log_softmax(own / 2), log_softmax(projected.detach() / 2)))
        back.append(divergence(distance, log_softmax(returned / 2), log_softmax(theirs / 2)))
    out = loss_fn(student, teacher)
    everyone = sum(agrees) / len(agrees) > threshold
    kept = [value for value, agree in zip(kd, agrees, strict=True) if agree or everyone]
    mean = {"t2s_ce": ce, "s2t_kd": back, "t2s_kd": kept}
    for name, values in mean.items():
        expected = sum(values, torch.zeros((), dtype=torch.float64)) / max(len(values), 1)
        torch.testing.assert_close(out.terms[name], expected.detach(), rtol=1e-8, atol=1e-10)
        assert out.counts[name] == len(values)
    assert out.metrics["t2s_agreement"].item() == pytest.approx(sum(agrees) / len(agrees))


@settings(max_examples=25)
@given(seed=SEEDS, distance=DISTANCES)
def test_vanilla_distillation(seed: int, distance: str) -> None:
    spec = DSKDSpec.preset("vanilla-kd", distance=distance, temperature=2.0, kd_rate=0.4)
    batch = make_batch(seed, same_tokenizer=True, student_vocabulary=5)
    student, teacher = batch.student, batch.teacher
    out = build(spec, batch)(student, teacher)
    logits = student.hidden_states[student.scored] @ student.head.weight.T
    teacher_logits = teacher.hidden_states[student.scored] @ teacher.head.weight.T
    kd = sum(
        divergence(distance, log_softmax(ours / 2), log_softmax(theirs / 2))
        for ours, theirs in zip(logits, teacher_logits, strict=True)
    ) / len(logits)
    ce = F.cross_entropy(logits, student.targets[student.scored])
    torch.testing.assert_close(out.loss, 0.6 * ce + 0.4 * kd)


@given(seed=SEEDS)
def test_terms_weights_and_rate_make_the_loss(seed: int) -> None:
    spec = DSKDSpec(
        kd_rate=0.25,
        spaces=({"name": "student", "ce_weight": 2.0, "kd_weight": 0.5}, {"name": "teacher", "weight": 3.0}),
    )
    batch = make_batch(seed, same_tokenizer=True)
    out = build(spec, batch)(batch.student, batch.teacher)
    terms = out.terms
    distilled = 2.0 * terms["t2s_ce"] + 0.5 * terms["t2s_kd"] + 3.0 * terms["s2t_kd"]
    torch.testing.assert_close(out.loss, 0.75 * terms["ce"] + 0.25 * distilled)


@settings(max_examples=25)
@given(seed=SEEDS, distance=DISTANCES)
def test_exactly_aligned_pairs(seed: int, distance: str) -> None:
    """The preset dskd-v2-eta, pair by pair; its threshold is one that random batches are on either side of."""
    published = DSKDSpec.preset("dskd-v2-eta", distance=distance, temperature=2.0)
    student_space = {**published.spaces[0].model_dump(), "agreement_threshold": 0.2}
    spec = published.replace(spaces=(student_space, published.spaces[1]))
    batch, _ = leaves_of(make_batch(seed, same_tokenizer=False, student_vocabulary=4, teacher_vocabulary=5))
    student, teacher = batch.student, batch.teacher
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    index = torch.stack([torch.randperm(8, generator=generator)[:6].sort().values for _ in range(3)])
    index = index.masked_fill(torch.rand(3, 6, generator=generator) < 0.3, -1)
    mapping = torch.tensor([2, -1, 0, 3, -1])
    loss_fn = build(spec, batch, mapping=mapping)
    t2s = loss_fn.projectors["t2s"]
    # Tokens 0, 2 and 3 of the teacher are 2, 0 and 3 of the student.
    back = student.head.weight.detach()[[2, 0, 3]].T @ torch.linalg.pinv(teacher.head.weight[[0, 2, 3]].T)
    ce, kd, agrees, returned = [], [], [], []
    for b in range(3):
        for i, j in enumerate(index[b].tolist()):
            if j < 0 or student.targets[b, i] == -100 or teacher.targets[b, j] == -100:
                continue
            own = student.head.weight @ student.hidden_states[b, i]
            theirs = teacher.head.weight @ teacher.hidden_states[b, j]
            guest = teacher.head.weight @ (student.hidden_states[b, i] @ back)
            returned.append(divergence(distance, log_softmax(guest / 2), log_softmax(theirs / 2)))
            choice = mapping[theirs.argmax()]
            if choice < 0:
                continue
            projected = student.head.weight.detach() @ (t2s.weight @ teacher.hidden_states[b, j])
            ce.append(-log_softmax(projected)[choice])
            agrees.append(bool(projected.argmax() == choice))
            kd.append(divergence(distance, log_softmax(own / 2), log_softmax(projected.detach() / 2)))
    everyone = sum(agrees) / max(len(agrees), 1) > 0.2
    kept = [value for value, agree in zip(kd, agrees, strict=True) if agree or everyone]
    out = loss_fn(student, teacher, alignment=index)
    for name, values in {"t2s_ce": ce, "s2t_kd": returned, "t2s_kd": kept}.items():
        expected = sum(values, torch.zeros((), dtype=torch.float64)) / max(len(values), 1)
        torch.testing.assert_close(out.terms[name], expected.detach(), rtol=1e-6, atol=1e-8)
        assert out.counts[name] == len(values)
