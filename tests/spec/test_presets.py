"""The recommended presets are what was measured."""

from __future__ import annotations

import torch

from benchmarks.evidence.arms import arms_of
from dskd_components import DSKDSpec, TeacherSpec
from dskd_components.spec import parse_spec
from tests.helpers.leaves import gradients, with_leaves
from tests.helpers.registered import build
from tests.helpers.strategies import make_batch

ONE, TWO = "recommended-one-vocabulary", "recommended-two-vocabularies"


def test_they_are_the_arms_that_gained_most() -> None:
    assert arms_of("one")["dskd-vanilla"].spec == DSKDSpec.preset(ONE)
    arm, preset = arms_of("two")["strict-T-4"].spec, DSKDSpec.preset(TWO)
    assert preset == arm.replace(spaces=preset.spaces)
    # The arm's space has a term of weight 0 besides, for which it sorts.
    batch, leaves = with_leaves(make_batch(0, same_tokenizer=False))
    losses = [build(spec.replace(aligner="span"), batch) for spec in (arm, preset)]
    theirs, ours = (batch.loss(loss_fn) for loss_fn in losses)
    assert ours.terms["shared_kd"] > 0
    torch.testing.assert_close(ours.loss, theirs.loss)
    torch.testing.assert_close(ours.terms["shared_kd"], theirs.terms["uld_matched"])
    torch.testing.assert_close(gradients(losses[1], ours, leaves), gradients(losses[0], theirs, leaves))


def test_a_teacher_of_several_has_no_share_of_its_own() -> None:
    whole = DSKDSpec.preset(TWO)
    of_teacher = TeacherSpec.preset(TWO)
    assert (of_teacher.spaces, of_teacher.aligner) == (whole.spaces, whole.aligner)
    read = parse_spec(f"teachers: {{a: {{preset: {TWO}}}}}\nkd_rate: 0.4", None)
    assert read.pair("a") == whole.replace(kd_rate=0.4)  # type: ignore[union-attr, arg-type]
