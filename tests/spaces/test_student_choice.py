"""Which positions the terms of the student's space leave out where its vocabulary lacks the teacher's own choice."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from dskd_components import DSKDSpec
from dskd_components.spaces import StudentSpace
from tests.helpers.registered import build
from tests.helpers.strategies import make_batch


@pytest.mark.parametrize("engine", ["eager", "tiled"])
@pytest.mark.parametrize(
    ("targets", "kept"), list(product(("labels", "teacher_argmax"), ("none", "correct", "agreement")))
)
def test_a_term_leaves_out_positions_without_a_choice_if_it_looks_at_it(targets: str, kept: str, engine: str) -> None:
    space = StudentSpace(targets=targets, filter=kept, agreement_threshold=0.0, kd_denominator="kept")
    spec = DSKDSpec(aligner="cma", spaces=(space,), engine=engine)
    batch = make_batch(0, same_tokenizer=False)
    # The student has none of the teacher's tokens.
    out = batch.loss(build(spec, batch, mapping=torch.full((13,), -1)))
    scored = batch.student.scored.sum()
    assert out.counts["t2s_ce"] == (scored if targets == "labels" else 0)
    if space.needs_teacher_argmax:
        assert out.counts["t2s_kd"] == 0
    elif kept == "none":
        assert out.counts["t2s_kd"] == scored


def test_above_the_threshold_positions_without_a_choice_stay_out() -> None:
    space = StudentSpace(targets="labels", filter="agreement", agreement_threshold=0.0)
    spec = DSKDSpec(aligner="cma", spaces=(space,))
    for seed in range(10):
        batch = make_batch(seed, same_tokenizer=False)
        loss_fn = build(spec, batch)  # every second token of the teacher's is the student's
        out = batch.loss(loss_fn)
        if out.metrics["t2s_agreement"] > 0:
            break
    assert out.metrics["t2s_agreement"] > 0
    assert 0 < out.counts["t2s_kd"] < out.counts["t2s_ce"]
