"""What several pairs have learned is kept by teacher, and comes back for all of them or for none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from dskd_components import (
    CheckpointError,
    DSKDLoss,
    MultiTeacherLoss,
    MultiTeacherSpec,
    load_checkpoint,
    save_checkpoint,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WIDTHS = {"large": 7, "small": 3}


RISING = {"name": "linear", "start": 0.0, "end": 0.5, "steps": 9}

STAIRS = {"name": "piecewise", "points": [(0, 0.1), (5, 0.4)], "interpolation": "stairs"}


def loss_of(**changes: object) -> MultiTeacherLoss:
    spec = MultiTeacherSpec(teachers={"large": {"distance": "js"}, "small": {"weight": 0.5, **changes}})
    pairs = {
        name: DSKDLoss(spec.pair(name), student_hidden_size=5, teacher_hidden_size=width)
        for name, width in WIDTHS.items()
    }
    return MultiTeacherLoss(spec, pairs)


def test_each_pair_comes_back(tmp_path: Path) -> None:
    trained, fresh = loss_of(), loss_of()
    trained.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large", "small"]
    fresh.restore(tmp_path)
    found, expected = fresh.state_dict(), trained.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_all_or_none(tmp_path: Path) -> None:
    loss_of().save(tmp_path)
    other = loss_of(temperature=2.0)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"(?s)small.*spec\.temperature: saved 1\.0, here 2\.0"):
        other.restore(tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    other.restore(tmp_path, accept=["spec.temperature"])
    assert any(not torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


@pytest.mark.parametrize(
    ("saved", "here", "differing"),
    [
        (0.5, 0.2, r"teacher_weight: saved 0\.5, here 0\.2"),
        (0.5, RISING, r"teacher_weight: saved 0\.5, here \{'name': 'linear'"),
        (RISING, 0.5, r"teacher_weight: saved \{'name': 'linear'.*, here 0\.5"),
        (RISING, RISING | {"steps": 8}, r"teacher_weight: saved \{.*'steps': 9.*, here \{.*'steps': 8"),
        (STAIRS, STAIRS | {"points": [(0, 0.1)]}, r"teacher_weight: saved \{.*\[5, 0\.4\].*, here \{.*0\.1\]\]"),
    ],
)
def test_another_weight_is_a_difference_as_another_kd_rate_is(
    saved: object, here: object, differing: str, tmp_path: Path
) -> None:
    """No pair knows of it, so a run went on with other weights, and nobody said so."""
    trained, fresh, student = loss_of(weight=saved), loss_of(weight=here), torch.nn.Linear(2, 2)
    trained.save(tmp_path / "folder")
    save_checkpoint(tmp_path / "file", student=student, loss_fn=trained, step=1)

    def restore(accept: Sequence[str]) -> None:
        fresh.restore(tmp_path / "folder", accept=accept)

    def load(accept: Sequence[str]) -> None:
        load_checkpoint(tmp_path / "file", student=student, loss_fn=fresh, accept=accept)

    for take in (restore, load):
        with pytest.raises(CheckpointError, match=rf"(?s)small.*{differing}.*Give the teacher the weight"):
            take([])
        assert not all(map(torch.equal, fresh.parameters(), trained.parameters()))
    for take in (restore, load):
        take(["teacher_weight"])
        assert all(map(torch.equal, fresh.parameters(), trained.parameters()))
    trained.restore(tmp_path / "folder")


def test_a_pair_that_is_saved_or_loaded_alone_has_no_weight(tmp_path: Path) -> None:
    several = loss_of()
    several.save(tmp_path)
    alone = loss_of(weight=0.1).pair("small")
    alone.restore(tmp_path / "small")
    for name in WIDTHS:
        several.pair(name).save(tmp_path / name)
    loss_of(weight=RISING).restore(tmp_path)
