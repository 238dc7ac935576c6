"""Projection and head in each order: what is computed, how much of it, and what is never made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dskd_components import DSKDSpec, Head
from dskd_components.engines._tiling.head_products import HeadProducts
from dskd_components.engines._tiling.reassociation import Learner, Shapes, Way
from tests.helpers.registered import build
from tests.helpers.strategies import make_batch
from tests.helpers.tiled_steps import Watch, batch_and_loss, gradients


@pytest.mark.parametrize("projector", ["linear", "live_pinv", "mlp"])
@pytest.mark.parametrize("aligner", ["identity", "cma"])
@pytest.mark.parametrize("head_dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("way", ["apart", "logits", "throughout"])
def test_each_way_of_joining_gives_what_the_eager_engine_gives(
    way: str, head_dtype: torch.dtype, aligner: str, projector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shapes, "cheapest", lambda *_: way)
    batch, loss_fn = batch_and_loss(aligner=aligner, s2t_projector=projector)
    teacher_head = Head(batch.teacher.head.weight.detach().to(head_dtype))
    batch = replace(batch, teacher=replace(batch.teacher, head=teacher_head))
    with torch.no_grad():
        for parameter in loss_fn.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)  # biases start at 0
    found = batch.loss(loss_fn)
    of_tiled = gradients(found.loss, batch, loss_fn)
    loss_fn.spec = loss_fn.spec.replace(engine="eager")
    expected = batch.loss(loss_fn)
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(of_tiled, gradients(expected.loss, batch, loss_fn))


@pytest.mark.parametrize("way", ["apart", "logits", "throughout"])
def test_without_gradients_no_way_makes_any(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a gradient was made")

    monkeypatch.setattr(Shapes, "cheapest", lambda *_: way)
    monkeypatch.setattr(HeadProducts, "states_gradient", refuse)
    batch, loss_fn = batch_and_loss()
    with torch.no_grad():
        assert batch.loss(loss_fn).loss.isfinite()


@pytest.mark.parametrize(("tokens", "widths"), [(2, []), (3, [16]), (4, [16, 16])])
def test_a_projection_is_joined_with_the_head_where_that_pays(tokens: int, widths: list[int]) -> None:
    """From width 2 to 9, with 97 tokens: 1800 n multiplications apart, 1746 + 1103 n for logits, 3492 + 582 n for all.

    The joint matrix has a column for each entry of the width that is projected, one for the bias, and more until its
    rows are aligned; so has its gradient.
    """
    shape: dict[str, Any] = {"student_hidden": 2, "teacher_hidden": 9, "student_length": tokens}
    batch = make_batch(0, same_tokenizer=True, batch=1, student_vocabulary=97, dtype=torch.float32, **shape)
    targets = torch.arange(tokens)[None]
    batch = replace(
        batch, student=replace(batch.student, targets=targets), teacher=replace(batch.teacher, targets=targets)
    )
    loss_fn = build(DSKDSpec.preset("dskd", spaces=["teacher"]), batch)
    with Watch(97) as watch:
        batch.loss(loss_fn)
    assert watch.joint_widths == widths


@pytest.mark.parametrize("learner", ["nothing", "states", "projection"])
def test_ways_take_as_many_multiplications_as_their_products(learner: Learner) -> None:
    """Without a gradient, one product fewer; a projection that learns takes one more than states that do."""
    shapes = Shapes(rows=3, source=2, target=5, vocabulary=11)
    read, read_joined, project, join = 3 * 5 * 11, 3 * 2 * 11, 3 * 2 * 5, 11 * 2 * 5
    backward = {
        "nothing": (0, 0, 0),
        "states": (read + project, read + project, read_joined),
        "projection": (read + 2 * project, read + 2 * project, 2 * read_joined + join),
    }[learner]
    forward = (project + read, join + read_joined, join + read_joined)
    ways: tuple[Way, ...] = ("apart", "logits", "throughout")
    expected = [there + back for there, back in zip(forward, backward, strict=True)]
    assert [shapes.multiplications(way, learner) for way in ways] == expected
    # Gradients that are rounded go through the head in half of the time, and through a joint matrix as before.
    rounded = [shapes._replace(rounded=True).multiplications(way, learner) for way in ways]
    saved = 0 if learner == "nothing" else read - read // 2
    assert rounded == [expected[0] - saved, expected[1] - saved, expected[2]]


def test_no_more_is_held_for_joining_than_there_is_room_for() -> None:
    shapes = Shapes(rows=10**6, source=2, target=50, vocabulary=10)
    found = [shapes.cheapest("projection", most) for most in (159, 160, 319, 320)]
    assert found == ["apart", "logits", "logits", "throughout"]
    assert shapes.cheapest("states", 160) == "throughout"


@pytest.mark.parametrize("preset", ["dskd", "dskd-cma"])
def test_nothing_of_the_larger_width_waits_for_backward(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """States that a projection widens are projected tile by tile, and their gradient goes on to them at once."""
    monkeypatch.setattr(Shapes, "cheapest", lambda *_: "apart")
    spec = DSKDSpec.preset(preset, spaces=["teacher"], engine={"name": "tiled", "memory_budget_mib": 0.03})
    batch = make_batch(
        0, same_tokenizer=spec.aligner.same_tokenizer, dtype=torch.float32, student_hidden=7, teacher_hidden=61
    )
    batch = replace(
        batch,
        student=replace(batch.student, hidden_states=batch.student.hidden_states.detach().requires_grad_()),
    )
    kept: list[tuple[int, ...]] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    loss_fn = build(spec, batch)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = batch.loss(loss_fn).loss
    covered = int(batch.teacher.scored.sum())
    assert covered > 7
    assert (covered, 7) in kept
    assert (covered, 61) not in kept
    loss.backward()
