"""What has weight 0 is not computed into the loss: not even 0 times infinity, in values or gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch

from dskd_components import DSKDSpec, Head, InputError, MultiTeacherLoss, MultiTeacherSpec, get_aligner
from dskd_components.components import Distance
from dskd_components.spaces import SharedVocabularySpace, StudentSpace, TeacherSpace
from tests.helpers.leaves import gradients, with_leaves
from tests.helpers.registered import build
from tests.helpers.strategies import make_batch

if TYPE_CHECKING:
    from torch import Tensor

both_engines = pytest.mark.parametrize("engine", ["eager", "tiled"])


class Boundless(Distance):
    """Infinite, and so is its slope."""

    name: Literal["boundless"] = "boundless"

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        return (student_log_probs - teacher_log_probs.detach()).square().sum(-1) * torch.inf


INFINITE = Boundless()
# The names say what has weight 0, and by what. The second spec differs in nothing but a distance that is finite.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "t2s_kd by the space": (
        {"spaces": (StudentSpace(distance=INFINITE, kd_weight=0), TeacherSpace())},
        {"spaces": (StudentSpace(distance="kl", kd_weight=0), TeacherSpace())},
    ),
    "s2t_kd by the space": (
        {"spaces": (StudentSpace(), TeacherSpace(distance=INFINITE, weight=0))},
        {"spaces": (StudentSpace(), TeacherSpace(weight=0))},
    ),
    "s2t_kd by the spec, with cma": (
        {"spaces": (StudentSpace(), TeacherSpace(distance=INFINITE)), "weights": {"s2t_kd": 0}, "aligner": "cma"},
        {"weights": {"s2t_kd": 0}, "aligner": "cma"},
    ),
    "all but the cross entropy, by kd_rate": ({"distance": INFINITE, "kd_rate": 0}, {"kd_rate": 0}),
    "all but the cross entropy, by kd_rate, with an mlp": (
        {"distance": INFINITE, "kd_rate": 0, "t2s_projector": "mlp", "s2t_projector": "mlp"},
        {"kd_rate": 0, "t2s_projector": "mlp", "s2t_projector": "mlp"},
    ),
    "kd, by a schedule": (
        {
            "spaces": (SharedVocabularySpace(distance=INFINITE),),
            "kd_rate": {"name": "linear", "start": 0, "end": 1, "steps": 9},
        },
        {"spaces": (SharedVocabularySpace(),), "kd_rate": {"name": "linear", "start": 0, "end": 1, "steps": 9}},
    ),
}


@both_engines
@pytest.mark.parametrize(("infinite", "finite"), CASES.values(), ids=CASES.keys())
def test_a_term_of_weight_0(infinite: dict[str, Any], finite: dict[str, Any], engine: str) -> None:
    specs = [DSKDSpec(engine=engine, **fields) for fields in (infinite, finite)]
    batch, leaves = with_leaves(make_batch(0, same_tokenizer=specs[0].aligner.same_tokenizer))
    losses = [build(spec, batch) for spec in specs]
    found, expected = (batch.loss(loss_fn, step=0) for loss_fn in losses)
    assert any(value == torch.inf for value in found.terms.values())
    torch.testing.assert_close(found.loss, expected.loss)
    pairs = zip(gradients(losses[0], found, leaves), gradients(losses[1], expected, leaves), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    # Every parameter gets a gradient, be it 0: data parallelism waits for it.
    batch.loss(losses[0], step=0).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in losses[0].parameters())
    assert all(leaf.grad is not None for leaf in leaves)


@both_engines
def test_a_term_of_any_other_weight_is_computed(engine: str) -> None:
    batch = make_batch(0, same_tokenizer=True)
    for weight in (1e-300, 1):
        spec = DSKDSpec(spaces=(StudentSpace(distance=INFINITE, kd_weight=weight),), engine=engine)
        with pytest.raises(InputError, match="Terms at fault: t2s_kd"):
            batch.loss(build(spec, batch))


@both_engines
def test_the_cross_entropy_at_kd_rate_1(engine: str) -> None:
    batch, leaves = with_leaves(make_batch(0, same_tokenizer=True))
    ruled_out = torch.zeros(11).double()
    ruled_out[batch.student.targets[batch.student.scored][0]] = -torch.inf
    head = Head(batch.student.head.weight, bias=ruled_out.requires_grad_())
    spec = DSKDSpec(spaces=("teacher",), kd_rate=1, engine=engine)
    loss_fn = build(spec, batch)
    expected = batch.loss(loss_fn)
    found = replace(batch, student=replace(batch.student, head=head)).loss(loss_fn)
    assert found.terms["ce"] == torch.inf
    torch.testing.assert_close(found.loss, expected.loss)
    for ours, theirs in zip(gradients(loss_fn, found, leaves), gradients(loss_fn, expected, leaves), strict=True):
        torch.testing.assert_close(ours, theirs)


@both_engines
@pytest.mark.parametrize("by", ["weight", "kd_rate"])
def test_a_term_of_the_aligner(by: str, engine: str) -> None:
    aligner = get_aligner("kq", weight=0 if by == "weight" else 1)
    spec = DSKDSpec(aligner=aligner, engine=engine, kd_rate=0 if by == "kd_rate" else 0.5)
    batch, leaves = with_leaves(make_batch(0, same_tokenizer=False))
    loss_fn = build(spec, batch)
    expected = gradients(loss_fn, batch.loss(loss_fn), leaves)
    with torch.no_grad():
        loss_fn.aligner.discriminator.output.bias.fill_(torch.inf)
    out = batch.loss(loss_fn)
    assert out.terms["kq"] == torch.inf
    for ours, theirs in zip(gradients(loss_fn, out, leaves), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    batch.loss(loss_fn).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss_fn.parameters())


@both_engines
@pytest.mark.parametrize("kd_rate", [0.0, 0.5])
def test_a_teacher_of_weight_0(kd_rate: float, engine: str) -> None:
    def outcome(distance: Any) -> tuple[Tensor, list[Tensor]]:
        teachers = {
            "one": {"distance": INFINITE if kd_rate == 0 else "kl"},
            "none": {"distance": distance, "weight": 0},
        }
        # A weight of 0 at every step is refused for all teachers together, not for one.
        spec = MultiTeacherSpec(teachers=teachers, kd_rate=kd_rate, engine=engine)
        pairs = {name: build(spec.pair(name), batch) for name in teachers}
        loss_fn = MultiTeacherLoss(spec, pairs)
        out = loss_fn(batch.student, dict.fromkeys(teachers, batch.teacher))
        return out.loss, gradients(loss_fn, out, leaves)

    batch, leaves = with_leaves(make_batch(0, same_tokenizer=True))
    (loss, found), (expected_loss, expected) = outcome(INFINITE), outcome("kl")
    torch.testing.assert_close(loss, expected_loss)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
