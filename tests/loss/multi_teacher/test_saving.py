"""What several pairs have learned is kept by teacher, and comes back for all of them or for none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from dskd_components import CheckpointError, DSKDLoss, MultiTeacherLoss, MultiTeacherSpec

if TYPE_CHECKING:
    from pathlib import Path

WIDTHS = {"large": 7, "small": 3}


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
