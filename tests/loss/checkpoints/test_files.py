"""Files that are missing, damaged or somebody else's; writing that is cut short."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from dskd_components import CheckpointError, DSKDLoss, DSKDSpec
from dskd_components.loss.checkpoints import checkpoint_tensors

if TYPE_CHECKING:
    from pathlib import Path


def loss() -> DSKDLoss:
    return DSKDLoss(DSKDSpec.preset("dskd"), student_hidden_size=2, teacher_hidden_size=3)


def test_missing_files_are_named_and_where_there_are_some(tmp_path: Path) -> None:
    loss().save(tmp_path / "checkpoint-2")
    with pytest.raises(CheckpointError, match=r"projectors\.safetensors.*there is one in .*checkpoint-2"):
        loss().restore(tmp_path)
    with pytest.raises(CheckpointError, match=r"nowhere: expected a folder with projectors\.safetensors"):
        loss().restore(tmp_path / "nowhere")


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_is_loaded(place: float, bit: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    saved, other = loss(), loss()
    saved.save(folder)
    file = folder / "projectors.safetensors"
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    file.write_bytes(content)
    before = {name: tensor.clone() for name, tensor in checkpoint_tensors(other).items()}
    with pytest.raises(CheckpointError):
        other.restore(folder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in checkpoint_tensors(other).items())


@given(share=st.floats(0, 1, exclude_max=True))
def test_no_file_that_is_cut_short_is_loaded(share: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cut")
    loss().save(folder)
    file = folder / "projectors.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"projectors\.safetensors.*Take an earlier checkpoint"):
        loss().restore(folder)


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    torch.save(loss().state_dict(), tmp_path / "projectors.safetensors")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        loss().restore(tmp_path)


def test_files_of_another_origin_are_neither_read_nor_replaced(tmp_path: Path) -> None:
    file = tmp_path / "projectors.safetensors"
    save_file({"mine": torch.ones(2)}, file)
    content = file.read_bytes()
    with pytest.raises(CheckpointError, match=r"not written by DSKDLoss\.save"):
        loss().restore(tmp_path)
    with pytest.raises(CheckpointError, match=r"not a checkpoint of dskd_components\. It stays as it is"):
        loss().save(tmp_path)
    assert file.read_bytes() == content
    other = tmp_path / "other"
    other.mkdir()
    (other / "projectors.json").write_text('{"camera": 3}')
    with pytest.raises(CheckpointError, match=r"projectors\.json.*stays as it is"):
        loss().save(other)
    assert [path.name for path in other.iterdir()] == ["projectors.json"]


def test_an_older_checkpoint_is_replaced_and_other_files_are_left(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    loss().save(tmp_path)
    newer = loss()
    newer.save(tmp_path)
    found = loss()
    found.restore(tmp_path)
    assert torch.equal(found.projectors["t2s"].weight, newer.projectors["t2s"].weight)
    names = ["notes.txt", "projectors.json", "projectors.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize("fails_at", [0, 1])
def test_saving_that_is_cut_short_leaves_a_whole_checkpoint(
    fails_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two files is being written: what is there is the old state."""
    older, newer = loss(), loss()
    older.save(tmp_path)
    calls = iter(range(9))

    def fsync(_: int) -> None:
        if next(calls) == fails_at:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", fsync)
        with pytest.raises(CheckpointError, match="cannot be saved there: No space left on device"):
            newer.save(tmp_path)
    found = loss()
    found.restore(tmp_path)
    assert torch.equal(found.projectors["t2s"].weight, older.projectors["t2s"].weight)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["projectors.json", "projectors.safetensors"]


@pytest.mark.parametrize("fails_at", [0, 1])
def test_putting_in_place_that_is_cut_short_leaves_a_whole_checkpoint(
    fails_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two files is being put in place: what is there is the old state or the new one."""
    older, newer = loss(), loss()
    older.save(tmp_path)
    calls = iter(range(9))
    replace = type(tmp_path).replace

    def failing(file: Path, target: Path) -> Path:
        if next(calls) == fails_at:
            raise OSError(5, "Input/output error")
        return replace(file, target)

    with monkeypatch.context() as patched:
        patched.setattr(type(tmp_path), "replace", failing)
        with pytest.raises(CheckpointError, match="cannot be saved there: Input/output error"):
            newer.save(tmp_path)
    expected = (older, newer)[fails_at]
    found = loss()
    found.restore(tmp_path)
    assert torch.equal(found.projectors["t2s"].weight, expected.projectors["t2s"].weight)
    assert [path.name for path in tmp_path.iterdir()] == ["projectors.safetensors"]


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file: the projectors cannot be saved there"):
        loss().save(tmp_path / "file")


def test_a_description_that_was_edited_is_refused_and_not_needed(tmp_path: Path) -> None:
    loss().save(tmp_path)
    file = tmp_path / "projectors.json"
    content = json.loads(file.read_text())
    content["spec"]["kd_rate"] = 0.9
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"projectors\.json: it was changed.*Delete it"):
        loss().restore(tmp_path)
    file.write_text("{")
    with pytest.raises(CheckpointError, match=r"projectors\.json: it cannot be read as JSON"):
        loss().restore(tmp_path)
    file.unlink()
    loss().restore(tmp_path)


def test_a_format_of_the_future_is_named(tmp_path: Path) -> None:
    loss().save(tmp_path)
    file = tmp_path / "projectors.safetensors"
    with safe_open(file, framework="pt") as opened:
        metadata = dict(opened.metadata())
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    content = json.loads(metadata["dskd_components"])
    metadata["dskd_components"] = json.dumps(content | {"format": 2, "library_version": "9.0"})
    save_file(tensors, file, metadata=metadata)
    (tmp_path / "projectors.json").unlink()
    with pytest.raises(CheckpointError, match=r"expected format 1, got 2, written by dskd_components 9\.0"):
        loss().restore(tmp_path)


def test_a_spec_of_components_that_are_not_installed_is_named(tmp_path: Path) -> None:
    loss_fn = loss()
    loss_fn.save(tmp_path)
    from dskd_components.loss.checkpoints import read_checkpoint, write_checkpoint

    saved = read_checkpoint(tmp_path)
    changes = {"spec": {**saved.description.spec, "distance": {"name": "vanished"}}, "plugins": {"gone": "1.2"}}
    write_checkpoint(tmp_path, saved.description.model_copy(update=changes), saved.tensors)
    with pytest.raises(CheckpointError, match=r"distance.*'vanished'.*gone 1\.2"):
        read_checkpoint(tmp_path).spec()
