"""What users of other libraries complain of, as far as computing goes: the fused path, precision, memory, pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dskd_components import DSKDLoss, DSKDSpec, Head, LMStates
from dskd_components.aligners import align_text
from tests.helpers.models import byte_level_tokenizer, metaspace_tokenizer
from tests.helpers.registered import build, names
from tests.helpers.strategies import make_batch


def states(hidden: Tensor, head: Head, targets: Tensor) -> LMStates:
    return LMStates(hidden_states=hidden, targets=targets, head=head)


@pytest.mark.parametrize("distance", names("distance"))
def test_complaint_05_the_fused_path_has_the_same_objective(distance: str) -> None:
    """Scale, softcap and temperature are in both paths, in loss and gradients."""
    spec = DSKDSpec(distance=distance, temperature=2.0, teacher_temperature=1.5, temperature_squared=True)
    batch = make_batch(3, same_tokenizer=True)
    heads = {
        side: replace(getattr(batch, side).head, scale=0.7, softcap=2.0).detach() for side in ("student", "teacher")
    }
    student = replace(batch.student, head=heads["student"], hidden_states=batch.student.hidden_states.requires_grad_())
    teacher = replace(batch.teacher, head=heads["teacher"])
    found = {}
    for engine in ("tiled", "eager"):
        loss_fn = build(spec.replace(engine=engine), batch)
        loss = loss_fn(student, teacher).loss
        found[engine] = (loss.detach(), torch.autograd.grad(loss, [student.hidden_states, *loss_fn.parameters()]))
    torch.testing.assert_close(found["tiled"], found["eager"])


def test_complaint_06_half_precision_divergences_are_not_negative() -> None:
    """Student and teacher nearly agree, in bfloat16: the distance is not below 0, gradients are those of float32."""
    torch.manual_seed(0)
    hidden = torch.randn(2, 64, 32).bfloat16()
    weight = (0.5 * torch.randn(1000, 32)).bfloat16()
    other = (weight + 0.002 * torch.randn_like(weight)).bfloat16()
    targets = torch.randint(1000, (2, 64))
    loss_fn = DSKDLoss(DSKDSpec.preset("vanilla-kd"), student_hidden_size=32, teacher_hidden_size=32)
    results = []
    for cast in (torch.bfloat16, torch.float32):
        ours = hidden.to(cast).requires_grad_()
        head = Head(weight.to(cast).requires_grad_())
        out = loss_fn(states(ours, head, targets), states(hidden.to(cast), Head(other.to(cast)), targets))
        results.append((out, torch.autograd.grad(out.loss, [ours, head.weight])))
    (half, half_gradients), (full, full_gradients) = results
    assert 0 <= half.terms["kd"] < 0.01
    torch.testing.assert_close(half.loss, full.loss, rtol=1e-6, atol=0)
    for found, expected in zip(half_gradients, full_gradients, strict=True):
        assert (found.float() - expected).norm() <= 0.004 * expected.norm()  # the rounding of the gradient itself


@pytest.mark.parametrize("distance", names("distance"))
def test_complaint_07_finite_loss_has_finite_gradients(distance: str) -> None:
    """Huge logits, and NaN where nothing is scored."""
    batch = make_batch(4, same_tokenizer=True, dtype=torch.float32)
    hidden = (1000 * batch.student.hidden_states).detach()
    hidden[~batch.student.scored] = torch.nan
    student = replace(batch.student, hidden_states=hidden.requires_grad_())
    loss_fn = build(DSKDSpec(distance=distance), batch)
    loss = loss_fn(student, batch.teacher).loss
    gradients = torch.autograd.grad(loss, [student.hidden_states, *loss_fn.parameters()])
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert gradients[0][~student.scored].eq(0).all()


@pytest.mark.parametrize("method", ["span", "exact_match"])
def test_complaint_10_alignment_goes_on_after_a_difference(method: Any) -> None:
    """Byte-level pieces of an accented letter on one side, whole letters on the other: all that follows still pairs."""
    aligned = align_text(metaspace_tokenizer(), byte_level_tokenizer(), "the café should never fail", method=method)
    last = aligned.groups[-1]
    assert last[0][1] == len(aligned.student.tokens)
    assert last[1][1] == len(aligned.teacher.tokens)


class LargestOverVocabulary(TorchDispatchMode):
    """The most rows that a tensor over the vocabulary has."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.rows = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, Tensor) and tensor.ndim > 1 and tensor.shape[-1] == self.vocabulary:
                self.rows = max(self.rows, tensor.numel() // self.vocabulary)
        return made


def test_complaint_14_out_of_memory_on_logits() -> None:
    """Four times the tokens make no more logits at a time."""
    rows = []
    for samples in (2, 8):
        torch.manual_seed(0)
        sizes = {"student_vocabulary": 997, "student_hidden": 8, "student_length": 40, "at_least": 40}
        batch = make_batch(0, same_tokenizer=True, batch=samples, dtype=torch.float32, **sizes)
        spec = DSKDSpec(engine={"name": "tiled", "memory_budget_mib": 0.2})
        with LargestOverVocabulary(997) as largest:
            build(spec, batch)(batch.student, batch.teacher).loss.backward()
        rows.append(largest.rows)
    assert rows[1] <= 1.25 * rows[0]  # tiles of equal size fill the budget better or worse
    assert rows[0] < 40
