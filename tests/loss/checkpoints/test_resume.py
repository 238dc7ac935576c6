"""A run that is killed between two steps goes on to the very losses that it would have had."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import torch

from tests.helpers.interrupted_run import CHECKPOINT_AFTER, KILLED_AFTER, SPECS, STEPS, Run, train_until_killed
from tests.helpers.processes import exit_code

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("killed")
    assert exit_code(train_until_killed, path) == -signal.SIGKILL
    return path


@pytest.mark.parametrize("name", SPECS)
def test_the_loss_curve_is_the_same(name: str, folder: Path) -> None:
    expected = Run(name).train(STEPS)
    assert len(set(expected)) == STEPS
    assert (folder / f"{name}.losses").read_text().split() == expected[CHECKPOINT_AFTER:KILLED_AFTER]
    resumed = Run(name, folder / name)
    assert resumed.step == CHECKPOINT_AFTER
    assert resumed.train(STEPS) == expected[CHECKPOINT_AFTER:]


def test_without_the_projectors_it_would_not_be(folder: Path) -> None:
    """The test above can fail: other projectors, another curve."""
    name = "dskd-cma"
    expected = Run(name).train(STEPS)
    resumed = Run(name, folder / name)
    with torch.no_grad():
        resumed.loss_fn.projectors["t2s"].weight.mul_(1 + 1e-5)
    assert resumed.train(STEPS) != expected[CHECKPOINT_AFTER:]
