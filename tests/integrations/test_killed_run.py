"""A trainer's run that is killed between steps goes on where its last checkpoint is."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from transformers.trainer_utils import get_last_checkpoint

from examples.tiny import tiny_pair
from examples.trainer import new_trainer

if TYPE_CHECKING:
    from pathlib import Path

# Three checkpoints' worth of steps, and then no chance to tidy up.
KILLED_AFTER_STEP_5 = """
import os, signal, sys
from transformers import TrainerCallback
from examples.tiny import tiny_pair
from examples.trainer import new_trainer

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

trainer = new_trainer(tiny_pair(), sys.argv[1], save_strategy="steps", save_steps=2, num_train_epochs=2)
trainer.add_callback(Kill())
trainer.train()
"""


def test_a_killed_run_resumes_to_the_same_curve(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AFTER_STEP_5, str(tmp_path / "killed")], capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
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
