"""Whatever device new tensors are made on by default, a loss makes its own where its states are.

Tensors without values stand in for an accelerator: what the loss leaves to the default cannot be computed with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from dskd_components import DSKDLoss, DSKDSpec, DualTokenizerCollator, Head, scored_tokens
from dskd_components.loss.checkpoints import HeadFingerprint
from tests.helpers.pairs import sound_pair
from tests.helpers.registered import build, specs
from tests.helpers.strategies import make_batch

if TYPE_CHECKING:
    from pathlib import Path

SPECS = specs()


@pytest.mark.parametrize("engine", ["tiled", "eager"])
@pytest.mark.parametrize("name", SPECS)
def test_nothing_is_made_on_the_default_device(name: str, engine: str) -> None:
    spec = SPECS[name].replace(engine=engine)
    batch = make_batch(0, same_tokenizer=spec.aligner.same_tokenizer, batch=2)
    loss_fn = build(spec, batch)
    batch.student.hidden_states.requires_grad_()
    batch.student.head.weight.requires_grad_()
    here = batch.student.hidden_states.device
    with torch.device("meta"):
        out = batch.loss(loss_fn, num_items_in_batch=7)
        out.loss.backward()
    tensors = [out.loss, *out.terms.values(), *out.counts.values(), *out.metrics.values()]
    assert {tensor.device for tensor in tensors} == {here}


def test_checkpoints_and_batches_are_made_where_they_belong(tmp_path: Path) -> None:
    pair = sound_pair()
    student, teacher, student_tokenizer, teacher_tokenizer = (
        pair[name] for name in ("student", "teacher", "student_tokenizer", "teacher_tokenizer")
    )
    spec = DSKDSpec.preset("dskd-v2-eta")
    loss_fn = DSKDLoss.from_models(spec, student, teacher, student_tokenizer, teacher_tokenizer)
    collate = DualTokenizerCollator(student_tokenizer, teacher_tokenizer)
    samples = [{"text": "One text."}, {"prompt": "A question", "response": " and its answer"}]
    expected = collate(samples)
    here = next(student.parameters()).device
    with torch.device("meta"):
        found = collate(samples)
        out = loss_fn.run(student, teacher, {name: column.to(here) for name, column in found.items()})
        out.loss.backward()
        loss_fn.save(tmp_path)
        loss_fn.restore(tmp_path)
        fingerprint = HeadFingerprint.of(Head.from_model(teacher), frozen=True)
        assert int(scored_tokens(found)) == int(scored_tokens(expected))
    assert {name: column.tolist() for name, column in found.items()} == {
        name: column.tolist() for name, column in expected.items()
    }
    assert fingerprint == HeadFingerprint.of(Head.from_model(teacher), frozen=True)
