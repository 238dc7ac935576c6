"""What is saved comes back to the last bit, into the loss of the same pair and no other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from safetensors import safe_open

from dskd_components import CheckpointError, DSKDLoss, DSKDSpec
from dskd_components.loss.checkpoints import checkpoint_tensors, read_checkpoint
from dskd_components.spec.presets import PRESETS
from tests.helpers.models import byte_level_tokenizer, metaspace_tokenizer, tiny_model
from tests.helpers.registered import build, names, specs
from tests.helpers.spec_strategies import specs as any_specs
from tests.helpers.strategies import make_batch

if TYPE_CHECKING:
    from pathlib import Path

    from tests.helpers.strategies import Batch

SPECS = specs()


def loss_of(loss_fn: DSKDLoss, batch: Batch) -> torch.Tensor:
    ours, theirs = batch.student.targets, batch.teacher.targets
    index = torch.arange(ours.shape[1]).expand_as(ours)
    pairs = index.where(index < theirs.shape[1], -1) if loss_fn.spec.aligner.text_method else None
    loss: torch.Tensor = loss_fn(batch.student, batch.teacher, alignment=pairs).loss
    return loss


def scrambled(loss_fn: DSKDLoss) -> DSKDLoss:
    with torch.no_grad():
        for tensor in checkpoint_tensors(loss_fn).values():
            tensor.copy_(torch.randn_like(tensor))
    return loss_fn


def require_equal(found: DSKDLoss, expected: DSKDLoss) -> None:
    ours, theirs = checkpoint_tensors(found), checkpoint_tensors(expected)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_loss_comes_back_to_the_last_bit(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    spec = SPECS[name]
    batch = make_batch(3, same_tokenizer=spec.aligner.same_tokenizer, dtype=dtype)
    trained = scrambled(build(spec, batch, seed=1))
    expected = loss_of(trained, batch)
    trained.save(tmp_path)
    found = build(spec, batch, seed=2)
    found.restore(tmp_path)
    require_equal(found, trained)
    assert torch.equal(loss_of(found, batch), expected)


@given(any_specs())
def test_every_spec_comes_back(spec: DSKDSpec) -> None:
    from tempfile import TemporaryDirectory

    from dskd_components.loss.checkpoints import describe_loss, write_checkpoint

    loss_fn = DSKDLoss(DSKDSpec(), student_hidden_size=2, teacher_hidden_size=3)
    loss_fn.spec = spec
    with TemporaryDirectory() as folder:
        write_checkpoint(folder, describe_loss(loss_fn), {})
        saved = read_checkpoint(folder)
        assert saved.spec() == spec
        assert saved.description == describe_loss(loss_fn)


def pair(spec: DSKDSpec) -> tuple[Any, ...]:
    student_tokenizer, teacher_tokenizer = metaspace_tokenizer(), byte_level_tokenizer()
    if spec.aligner.same_tokenizer:
        student_tokenizer = teacher_tokenizer
    student = tiny_model("GPT2", hidden_size=24, vocabulary=len(student_tokenizer))
    teacher = tiny_model("Llama", hidden_size=32, vocabulary=len(teacher_tokenizer) + 20)
    return student, teacher, student_tokenizer, teacher_tokenizer


@pytest.mark.parametrize("preset", PRESETS)
def test_a_loss_is_built_from_its_files_for_a_student_that_has_learned(preset: str, tmp_path: Path) -> None:
    spec = DSKDSpec.preset(preset, temperature=1.5)
    models = pair(spec)
    trained = scrambled(DSKDLoss.from_models(spec, *models))
    trained.save(tmp_path)
    with torch.no_grad():
        for parameter in models[0].parameters():
            parameter.add_(0.1)
    found = DSKDLoss.load(tmp_path, *models)
    assert found.spec == spec
    require_equal(found, trained)


def test_a_map_by_edit_distance_is_made_again_as_it_was(tmp_path: Path) -> None:
    spec = DSKDSpec.preset("dskd-v2-eta")
    models = pair(spec)
    trained = DSKDLoss.from_models(spec, *models, vocabulary_method="min_edit")
    trained.save(tmp_path)
    found = DSKDLoss.load(tmp_path, *models)
    assert found.teacher_to_student_ids is not None
    assert trained.teacher_to_student_ids is not None
    assert torch.equal(found.teacher_to_student_ids, trained.teacher_to_student_ids)
    with pytest.raises(CheckpointError, match="vocabulary_map: saved"):
        DSKDLoss.from_models(spec, *models).restore(tmp_path)


@pytest.mark.parametrize("aligner", names("aligner"))
def test_plugins_are_named_with_their_versions(aligner: str, tmp_path: Path) -> None:
    from dskd_components import list_components

    (origin,) = [info for info in list_components("aligner") if info.name == aligner]
    DSKDLoss(DSKDSpec(aligner=aligner), student_hidden_size=2, teacher_hidden_size=3).save(tmp_path)
    own = origin.distribution == "dskd-components"
    expected = {} if own else {origin.distribution: origin.version}
    assert read_checkpoint(tmp_path).description.plugins == expected


def test_plugins_within_components_are_named(tmp_path: Path) -> None:
    spec = DSKDSpec(spaces=[{"name": "student", "distance": "tvd"}])
    DSKDLoss(spec, student_hidden_size=2, teacher_hidden_size=3).save(tmp_path)
    assert "dskd-divergences" in read_checkpoint(tmp_path).description.plugins


def test_the_files_can_be_read_without_this_library(tmp_path: Path) -> None:
    loss_fn = DSKDLoss(DSKDSpec.preset("dskd"), student_hidden_size=2, teacher_hidden_size=3)
    loss_fn.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["projectors.json", "projectors.safetensors"]
    with safe_open(tmp_path / "projectors.safetensors", framework="pt") as opened:
        assert sorted(opened.keys()) == sorted(loss_fn.state_dict())
    assert DSKDSpec(**json.loads((tmp_path / "projectors.json").read_text())["spec"]) == loss_fn.spec


def test_the_student_is_no_part_of_what_is_saved_and_nothing_changes(tmp_path: Path) -> None:
    spec = DSKDSpec.preset("dskd-cma")
    models = pair(spec)
    loss_fn = DSKDLoss.from_models(spec, *models)
    before = {name: tensor.clone() for name, tensor in checkpoint_tensors(loss_fn).items()}
    generator = torch.get_rng_state()
    loss_fn.save(tmp_path)
    loss_fn.restore(tmp_path)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, before[name]) for name, tensor in checkpoint_tensors(loss_fn).items())
    assert all(name.startswith(("aligner.", "projectors.")) for name in read_checkpoint(tmp_path).tensors)
