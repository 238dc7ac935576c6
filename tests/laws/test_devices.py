"""Whatever device new tensors are made on by default, a loss makes its own where its states are.

Tensors without values stand in for an accelerator: what the loss leaves to the default cannot be computed with.
"""

from __future__ import annotations

import pytest
import torch

from tests.helpers.registered import build, specs
from tests.helpers.strategies import make_batch

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
        out = batch.loss(loss_fn)
        out.loss.backward()
    tensors = [out.loss, *out.terms.values(), *out.counts.values(), *out.metrics.values()]
    assert {tensor.device for tensor in tensors} == {here}
