"""A trainer's run that is killed between steps goes on where its last checkpoint is."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from examples.tiny import tiny_pair
from examples.trainer import new_trainer
from tests.helpers.processes import exit_code

if TYPE_CHECKING:
    from pathlib import Path


class Kill(TrainerCallback):
    """After three checkpoints' worth of steps, and then no chance to tidy up."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5:
            os.kill(os.getpid(), signal.SIGKILL)


def train_until_killed(folder: str) -> None:
    trainer = new_trainer(tiny_pair(), folder, save_strategy="steps", save_steps=2, num_train_epochs=2)
    trainer.add_callback(Kill())
    trainer.train()


def test_a_killed_run_resumes_to_the_same_curve(tmp_path: Path) -> None:
    assert exit_code(train_until_killed, str(tmp_path / "killed")) == -signal.SIGKILL
    checkpoint = get_last_checkpoint(str(tmp_path / "killed"))
    assert checkpoint is not None
    assert checkpoint.endswith("checkpoint-4")
    curves = []
    for folder, resume in (("whole", None), ("killed", checkpoint)):
        trainer = new_trainer(tiny_pair(), tmp_path / folder, num_train_epochs=2)
        trainer.train(resume_from_checkpoint=resume)
        curves.append([(e["loss"], e["ce"], e["grad_norm"]) for e in trainer.state.log_history if "loss" in e])
    assert len(curves[0]) == 8
    # Where memory begins in another process makes a difference in the last digits.
    for resumed, whole in zip(curves[1], curves[0], strict=True):
        assert resumed == pytest.approx(whole, rel=1e-6)
