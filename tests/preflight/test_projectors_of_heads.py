"""What preflight says of projectors that are made from heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dskd_components import DSKDLoss, DSKDSpec, Head
from dskd_components.preflight.check_batch import check_projectors
from tests.helpers.models import tiny_model
from tests.helpers.pairs import finding, look, sound_pair

V2 = DSKDSpec.preset("dskd-v2")


def loss_of(student: Head, teacher: Head, spec: DSKDSpec = V2) -> DSKDLoss:
    sizes: Any = {"student_hidden_size": student.hidden_size, "teacher_hidden_size": teacher.hidden_size}
    return DSKDLoss(spec, **sizes, student_head=student, teacher_head=teacher)


def head(width: int, **options: Any) -> Head:
    return Head(
        torch.randn(30, width, generator=torch.Generator(torch.get_default_device()).manual_seed(width)), **options
    )


@pytest.mark.parametrize(("student", "teacher"), [(None, 30.0), (30.0, None), (30.0, 50.0)])
def test_unlike_softcaps_are_said(student: float | None, teacher: float | None) -> None:
    found = list(check_projectors(loss_of(head(5, softcap=student), head(7, softcap=teacher))))
    of_caps = {each.found[:3]: each for each in found if each.component == "softcaps"}
    assert {direction: each.severity for direction, each in of_caps.items()} == {"t2s": "ok", "s2t": "warning"}
    assert "s2t_projector 'pinv'" in of_caps["s2t"].advice
    for cap in (student, teacher):
        assert ("does not cap" if cap is None else f"at {cap:g}") in of_caps["t2s"].found


@pytest.mark.parametrize("softcap", [None, 30.0])
def test_equal_softcaps_are_nothing_to_say(softcap: float | None) -> None:
    found = check_projectors(loss_of(head(5, softcap=softcap), head(7, softcap=softcap, scale=8.0)))
    assert {each.component for each in found} == {"pinv residual"}


def test_other_projectors_are_not_made_from_heads() -> None:
    plain = DSKDSpec.preset("dskd")
    assert list(check_projectors(loss_of(head(5, softcap=30.0), head(7), plain))) == []


def test_of_models_too() -> None:
    student = tiny_model("Gemma2", vocabulary=300)
    report = look(**sound_pair() | {"student": student}, spec=DSKDSpec.preset("dskd-v2-eta"))
    assert "the student caps its logits at 3 and the teacher does not" in finding(report, "softcaps", "warning").found


def test_what_is_kept_is_counted() -> None:
    report = look(spec=DSKDSpec.preset("dskd-v2-eta"), tokens_per_step=64)
    loss_fn = DSKDLoss.from_models(DSKDSpec.preset("dskd-v2-eta"), *sound_pair().values())
    [counted] = [cost for cost in report.costs if cost.component == "loss: buffers and constants"]
    maps = (loss_fn.teacher_to_student_ids, loss_fn.same_token)
    assert counted.bytes == loss_fn.projectors["s2t"].constant_bytes + sum(
        each.nbytes for each in maps if each is not None
    )
    assert loss_fn.projectors["s2t"].constant_bytes > 0
