"""The tiled engine computes what the eager one does, for everything that is registered, whatever the tiles."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dskd_components import DSKDLoss, DSKDOutput, DSKDSpec, Head
from tests.helpers.compiled import compiled_anywhere
from tests.helpers.registered import build, specs
from tests.helpers.strategies import SEEDS, Batch, make_batch

ALL = specs()
every_spec = pytest.mark.parametrize("spec", ALL.values(), ids=ALL.keys())
# From a row at a time to everything in one tile; some budgets make tiles of several blocks.
BUDGETS = st.sampled_from([1e-6, 1e-3, 4e-3, 384.0])


@st.composite
def heads(draw: st.DrawFn, head: Head, *, learns: bool) -> Head:
    """A head of the same weight, with everything that heads may have besides."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(draw(SEEDS))
    bias = None
    if draw(st.booleans()):
        bias = torch.randn(len(head.weight), generator=generator, dtype=head.weight.dtype)
    padding = draw(st.integers(0, 3))
    weight = torch.cat([head.weight, torch.full((padding, head.hidden_size), 1e6, dtype=head.weight.dtype)])
    if bias is not None:
        bias = torch.cat([bias, torch.full((padding,), 1e6, dtype=bias.dtype)])
    trained = learns and draw(st.booleans())
    return Head(
        weight.requires_grad_(trained),
        bias=None if bias is None else bias.requires_grad_(trained),
        scale=draw(st.sampled_from([1.0, 0.5])),
        softcap=draw(st.sampled_from([None, 3.0])),
        valid_vocabulary_size=len(head.weight) if padding else None,
    )


def outcome(
    loss_fn: DSKDLoss, batch: Batch, engine: object, options: dict[str, object]
) -> tuple[DSKDOutput, list[Tensor]]:
    loss_fn.spec = loss_fn.spec.replace(engine=engine)
    hidden = batch.student.hidden_states.detach().clone().requires_grad_()
    batch = replace(batch, student=replace(batch.student, hidden_states=hidden))
    out = batch.loss(loss_fn, **options)
    head = batch.student.head
    leaves = [hidden, *(part for part in (head.weight, head.bias) if part is not None and part.requires_grad)]
    found = torch.autograd.grad(
        3 * out.loss, [*leaves, *loss_fn.parameters()], allow_unused=True, materialize_grads=True
    )
    return out, list(found)


@every_spec
@settings(max_examples=12)
@given(
    data=st.data(),
    seed=SEEDS,
    budget=BUDGETS,
    fraction=st.sampled_from([None, 0.25, 2.0]),
    widths=st.sampled_from([(5, 7), (2, 9), (9, 2)]),
    compiled=st.booleans(),
)
def test_tiled_equals_eager(
    spec: DSKDSpec,
    data: st.DataObject,
    seed: int,
    budget: float,
    fraction: float | None,
    widths: tuple[int, int],
    compiled: bool,
) -> None:
    # With widths far apart it is cheaper to join a projection with the head behind it.
    student_hidden, teacher_hidden = widths
    batch = make_batch(
        seed,
        same_tokenizer=spec.aligner.same_tokenizer,
        student_hidden=student_hidden,
        teacher_hidden=teacher_hidden,
    )
    batch = replace(
        batch,
        student=replace(batch.student, head=data.draw(heads(batch.student.head, learns=True))),
        teacher=replace(batch.teacher, head=data.draw(heads(batch.teacher.head, learns=False))),
    )
    loss_fn = build(spec, batch)
    scored = batch.student.scored.sum()
    options = {} if fraction is None else {"num_items_in_batch": scored * fraction}
    expected, expected_gradients = outcome(loss_fn, batch, "eager", options)
    engine = {"name": "tiled", "memory_budget_mib": budget, "compiled": compiled}
    with compiled_anywhere() if compiled else nullcontext():
        found, gradients = outcome(loss_fn, batch, engine, options)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-9, atol=1e-9)
    for what in ("terms", "counts", "metrics"):
        ours, theirs = getattr(found, what), getattr(expected, what)
        assert set(ours) == set(theirs)
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-8, atol=1e-9, check_dtype=False)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)
