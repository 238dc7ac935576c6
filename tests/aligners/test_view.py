"""Alignments of a batch to look at, soft weights included, for every aligner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from dskd_components import DSKDSpec, InputError
from tests.helpers.registered import build, names
from tests.helpers.strategies import Batch, make_batch

if TYPE_CHECKING:
    from pathlib import Path


def aligned_batch(name: str) -> tuple[Batch, object]:
    spec = DSKDSpec(aligner=name)
    batch = make_batch(3, same_tokenizer=spec.aligner.same_tokenizer)
    told = batch.groups if spec.aligner.text_method else None
    return batch, build(spec, batch).align(batch.student, batch.teacher, alignment=told)


@pytest.mark.parametrize("name", names("aligner"))
def test_weights_are_what_is_brought_over(name: str) -> None:
    batch, found = aligned_batch(name)
    values = torch.randn(*batch.teacher.targets.shape, 2).double()
    brought = found.to_student(values)  # type: ignore[attr-defined]
    for sample in range(len(values)):
        weights = found.weights(sample).double()  # type: ignore[attr-defined]
        covered = found.student_covered[sample]  # type: ignore[attr-defined]
        torch.testing.assert_close((weights @ values[sample])[covered], brought[sample][covered], rtol=1e-4, atol=1e-5)
        assert (weights[~covered] == 0).all()


@pytest.mark.parametrize("name", names("aligner"))
def test_text_and_plot_show_them(name: str, tmp_path: Path) -> None:
    batch, found = aligned_batch(name)
    student = [f"s{i}" for i in range(batch.student.targets.shape[1])]
    teacher = [f"t{j}" for j in range(batch.teacher.targets.shape[1])]
    lines = found.to_text(student, teacher, sample=1).splitlines()  # type: ignore[attr-defined]
    weights = found.weights(1)  # type: ignore[attr-defined]
    for i, line in enumerate(lines):
        assert line.split()[0] == f"s{i}"
        if weights[i].any():
            # Of equal weights either may be named first.
            named = line.split("── ")[1].split()[0]
            assert weights[i, teacher.index(named)] == weights[i].max()
            assert f"{100 * weights[i].max():.0f} %" in line
        else:
            assert line.endswith("nothing")
    axes = found.plot(student, teacher, sample=1, path=tmp_path / "a.png")  # type: ignore[attr-defined]
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert [label.get_text() for label in axes.get_yticklabels()] == student
    torch.testing.assert_close(torch.tensor(axes.images[0].get_array().tolist()), weights.float(), rtol=0, atol=1e-6)


def test_a_string_for_each_position_is_needed() -> None:
    _batch, found = aligned_batch("cma")
    with pytest.raises(InputError, match="6 student and 8 teacher positions, got 1 and 1"):
        found.to_text(["a"], ["b"])  # type: ignore[attr-defined]
