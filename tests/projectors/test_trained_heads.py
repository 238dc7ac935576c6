"""What a projector takes from a head that is trained: it is saved with the loss, or follows the head, or is refused."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from dskd_components import DSKDLoss, DSKDSpec, Head, InputError, get_projector
from dskd_components.projectors import LivePinv
from tests.helpers.registered import build, names, vocabulary_map
from tests.helpers.strategies import make_batch

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers.strategies import Batch

NEEDING_FROZEN = [name for name in names("projector") if get_projector(name).needs_frozen_target]


def by_name(name: str) -> DSKDSpec:
    return DSKDSpec(t2s_projector=name)


def by_mapping(name: str) -> DSKDSpec:
    return DSKDSpec.preset("dskd-v2", t2s_projector={"name": name})


def by_instance(name: str) -> DSKDSpec:
    return DSKDSpec().replace(t2s_projector=get_projector(name))


def by_json(name: str) -> DSKDSpec:
    return DSKDSpec.model_validate_json(f'{{"t2s_projector": {{"name": "{name}"}}}}')


@pytest.mark.parametrize("make", [by_name, by_mapping, by_instance, by_json])
@pytest.mark.parametrize("name", NEEDING_FROZEN)
def test_a_projector_that_needs_a_frozen_head_does_not_project_to_the_student(make: Any, name: str) -> None:
    with pytest.raises(ValidationError, match=f"t2s_projector\n.*'{name}' is computed once.*training changes.*'pinv'"):
        make(name)


@pytest.mark.parametrize("name", names("projector"))
def test_the_schema_says_so(name: str) -> None:
    schema = Draft202012Validator(DSKDSpec.model_json_schema())
    for value in (name, {"name": name}):
        assert schema.is_valid({"t2s_projector": value}) == (name not in NEEDING_FROZEN)
        assert schema.is_valid({"s2t_projector": value})


def test_live_pinv_is_one_of_them() -> None:
    assert "live_pinv" in NEEDING_FROZEN
    assert DSKDSpec.preset("dskd-v2").s2t_projector == LivePinv()


def by_state(loss_fn: DSKDLoss, other: DSKDLoss, _folder: Path) -> DSKDLoss:
    file = io.BytesIO()
    torch.save(loss_fn.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file), strict=True)
    return other


def by_files(loss_fn: DSKDLoss, other: DSKDLoss, folder: Path) -> DSKDLoss:
    loss_fn.save(folder)
    other.restore(folder)
    return other


def by_pickle(loss_fn: DSKDLoss, _other: DSKDLoss, _folder: Path) -> DSKDLoss:
    file = io.BytesIO()
    torch.save(loss_fn, file)
    file.seek(0)
    found: DSKDLoss = torch.load(file, weights_only=False)
    return found


def by_copy(loss_fn: DSKDLoss, _other: DSKDLoss, _folder: Path) -> DSKDLoss:
    return copy.deepcopy(loss_fn)


def trained(batch: Batch) -> Batch:
    """The same batch, once the student's head has learned."""
    weight = batch.student.head.weight
    learned = weight + torch.randn(
        weight.shape, generator=torch.Generator(torch.get_default_device()).manual_seed(9), dtype=weight.dtype
    )
    return replace(batch, student=replace(batch.student, head=Head(learned)))


@pytest.mark.parametrize("keep", [by_state, by_files, by_pickle, by_copy])
@pytest.mark.parametrize("aligner", ["identity", "span"])
@pytest.mark.parametrize("name", names("projector"))
def test_every_way_of_saving_keeps_the_loss(name: str, aligner: str, keep: Any, tmp_path: Path) -> None:
    to_student = "pinv" if name in NEEDING_FROZEN else name
    spec = DSKDSpec(t2s_projector=to_student, s2t_projector=name, aligner=aligner)
    batch = make_batch(0, same_tokenizer=aligner == "identity")
    loss_fn = build(spec, batch)
    with torch.no_grad():
        for parameter in loss_fn.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    later = trained(batch)
    expected = later.loss(loss_fn).loss
    found = keep(loss_fn, build(spec, later, seed=1), tmp_path)
    torch.testing.assert_close(later.loss(found).loss, expected, rtol=1e-12, atol=0)


def live(batch: Batch) -> DSKDLoss:
    return build(DSKDSpec.preset("dskd-v2"), batch)


def with_teacher(batch: Batch, weight: torch.Tensor) -> Batch:
    return replace(batch, teacher=replace(batch.teacher, head=Head(weight)))


@pytest.mark.parametrize("changed", ["another", "one step"])
@pytest.mark.parametrize("aligner", ["identity", "span"])
def test_a_teacher_that_is_not_frozen_is_noticed(aligner: str, changed: str) -> None:
    """A map to the head as it was would go on, wrong from then on: an average over the student's steps, for example."""
    batch = make_batch(0, same_tokenizer=aligner == "identity")
    loss_fn = build(DSKDSpec(s2t_projector="live_pinv", aligner=aligner), batch)
    weight = batch.teacher.head.weight
    other = torch.randn_like(weight) if changed == "another" else 0.95 * weight + 0.05 * torch.randn_like(weight)
    changing = with_teacher(batch, other)
    with pytest.raises(InputError, match=r"'live_pinv'.*another head.*'pinv'"):
        changing.loss(loss_fn)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_teacher_in_another_precision_is_the_same(dtype: torch.dtype) -> None:
    batch = make_batch(0, same_tokenizer=True)
    loss_fn = live(batch)
    expected = batch.loss(loss_fn).loss
    found = with_teacher(batch, batch.teacher.head.weight.to(dtype)).loss(loss_fn).loss
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def test_a_map_between_vocabularies_is_made_of_the_shared_tokens_alone() -> None:
    batch = make_batch(0, same_tokenizer=False)
    loss_fn = build(DSKDSpec(s2t_projector="live_pinv", aligner="span"), batch)
    mapping = vocabulary_map(batch.student.head, batch.teacher.head)
    expected = batch.loss(loss_fn).terms["s2t_kd"]
    unshared = torch.ones(batch.student.head.vocabulary_size, dtype=torch.bool)
    unshared[mapping[mapping >= 0]] = False
    weight = batch.student.head.weight.clone()
    weight[unshared] *= 3.0
    other = replace(batch, student=replace(batch.student, head=Head(weight)))
    torch.testing.assert_close(other.loss(loss_fn).terms["s2t_kd"], expected)
