"""Tensors that were made under `torch.inference_mode` are as good as others, wherever nothing learns through them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from dskd_components import DSKDSpec
from tests.helpers.leaves import gradients, with_leaves
from tests.helpers.registered import build, specs, towards_student, vocabulary_map
from tests.helpers.strategies import make_batch

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components import LMStates
    from tests.helpers.strategies import Batch

ALL = specs()
every_spec = pytest.mark.parametrize("spec", ALL.values(), ids=ALL.keys())
both_engines = pytest.mark.parametrize("engine", ["eager", "tiled"])


def inferred(tensor: Tensor | None) -> Tensor | None:
    with torch.inference_mode():
        return None if tensor is None else tensor.clone()


def tokens(states: LMStates) -> dict[str, Tensor | None]:
    return {name: inferred(getattr(states, name)) for name in ("targets", "input_ids", "segment_ids")}


def as_made_in_inference_mode(batch: Batch) -> Batch:
    """All of the teacher's, and the student's tokens, as after generation."""
    teacher = batch.teacher
    head = replace(teacher.head, weight=inferred(teacher.head.weight), bias=inferred(teacher.head.bias))
    states = {name: inferred(getattr(teacher, name)) for name in ("hidden_states", "embedding")}
    groups = replace(batch.groups, student=inferred(batch.groups.student), teacher=inferred(batch.groups.teacher))
    teacher = replace(teacher, **tokens(teacher), **states, head=head)
    return replace(batch, student=replace(batch.student, **tokens(batch.student)), teacher=teacher, groups=groups)


@every_spec
@both_engines
@pytest.mark.parametrize("layout", ["packed", "nothing unscored"])
def test_loss_and_gradients_are_those_of_other_tensors(spec: DSKDSpec, engine: str, layout: str) -> None:
    # Without unscored positions, states are taken as they are rather than picked.
    same_tokenizer, at_least = spec.aligner.same_tokenizer, 0 if layout == "packed" else 6
    whole = make_batch(0, same_tokenizer=same_tokenizer, student_length=6, teacher_length=6, at_least=at_least)
    batch, leaves = with_leaves(whole.packed() if layout == "packed" else whole)
    loss_fn = build(spec.replace(engine=engine), batch)
    expected = batch.loss(loss_fn)
    found = as_made_in_inference_mode(batch).loss(loss_fn)
    assert torch.equal(found.loss, expected.loss)
    for ours, theirs in zip(gradients(loss_fn, found, leaves), gradients(loss_fn, expected, leaves), strict=True):
        assert torch.equal(ours, theirs)


@every_spec
@both_engines
def test_the_loss_can_be_evaluated_in_inference_mode(spec: DSKDSpec, engine: str) -> None:
    batch = make_batch(0, same_tokenizer=spec.aligner.same_tokenizer)
    loss_fn = build(spec.replace(engine=engine), batch)
    expected = batch.loss(loss_fn).loss
    with torch.inference_mode():
        torch.testing.assert_close(as_made_in_inference_mode(batch).loss(loss_fn).loss, expected)


@pytest.mark.parametrize("name", ["pinv", "live_pinv"])
@both_engines
def test_projectors_made_from_such_heads_learn(name: str, engine: str) -> None:
    spec = DSKDSpec(t2s_projector=towards_student(name), s2t_projector=name, aligner="cma", engine=engine)
    batch, leaves = with_leaves(make_batch(0, same_tokenizer=False))
    with torch.inference_mode():
        mapping = vocabulary_map(batch.student.head, batch.teacher.head)
    loss_fn = build(spec, as_made_in_inference_mode(batch), mapping=mapping)
    found = gradients(loss_fn, batch.loss(loss_fn), leaves)
    expected_loss = build(spec, batch)
    for ours, theirs in zip(found, gradients(expected_loss, batch.loss(expected_loss), leaves), strict=True):
        assert torch.equal(ours, theirs)
