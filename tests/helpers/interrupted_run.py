"""A plain training loop that can be killed between two steps and taken up again from its last checkpoint."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM

from dskd_components import DSKDLoss, DSKDSpec, DualTokenizerCollator
from tests.helpers.models import TEXTS, byte_level_tokenizer, metaspace_tokenizer, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

STEPS = 6
CHECKPOINT_AFTER, KILLED_AFTER = 2, 3
SPECS = {
    "dskd-cma": DSKDSpec.preset("dskd-cma"),
    "dskd-v2": DSKDSpec.preset("dskd-v2"),
    "dskd-v2-eta": DSKDSpec.preset("dskd-v2-eta"),
}


class Run:
    """Models, data and optimizer of one spec, from the start or from a checkpoint."""

    def __init__(self, name: str, checkpoint: Path | None = None) -> None:
        spec = SPECS[name]
        teacher_tokenizer = byte_level_tokenizer()
        student_tokenizer = teacher_tokenizer if spec.aligner.same_tokenizer else metaspace_tokenizer()
        self.student: Any = tiny_model("GPT2", hidden_size=24, vocabulary=len(student_tokenizer))
        if checkpoint is not None:
            self.student = AutoModelForCausalLM.from_pretrained(checkpoint / "student")
        self.teacher: Any = tiny_model("Llama", hidden_size=32, vocabulary=len(teacher_tokenizer) + 20)
        self.collate = DualTokenizerCollator(student_tokenizer, teacher_tokenizer, aligner=spec.aligner)
        models = self.student, self.teacher, student_tokenizer, teacher_tokenizer
        torch.manual_seed(1)
        self.loss_fn = (
            DSKDLoss.from_models(spec, *models)
            if checkpoint is None
            else DSKDLoss.load(checkpoint / "projectors", *models)
        )
        self.student.train()
        self.optimizer = torch.optim.AdamW(
            [{"params": list(self.student.parameters()), "lr": 3e-3}, *self.loss_fn.param_groups(lr=1e-2)]
        )
        self.step = 0
        if checkpoint is not None:
            state = torch.load(checkpoint / "rest.pt")
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
            torch.set_rng_state(state["generator"])

    def train(self, until: int) -> list[str]:
        """Return the losses, exactly."""
        losses = []
        while self.step < until:
            batch = self.collate([{"text": TEXTS[(self.step + shift) % 3]} for shift in (0, 1)])
            self.optimizer.zero_grad()
            loss = self.loss_fn.run(self.student, self.teacher, batch).loss
            loss.backward()
            self.optimizer.step()
            self.step += 1
            losses.append(loss.item().hex())
        return losses

    def save(self, checkpoint: Path) -> None:
        """Write all that the next step depends on."""
        self.student.save_pretrained(checkpoint / "student")
        self.loss_fn.save(checkpoint / "projectors")
        state = {"optimizer": self.optimizer.state_dict(), "step": self.step, "generator": torch.get_rng_state()}
        torch.save(state, checkpoint / "rest.pt")


def train_until_killed(folder: Path) -> None:
    """Train a run of each spec, write its checkpoint and the losses after that, and leave no chance to tidy up."""
    for each in SPECS:
        run = Run(each)
        run.train(CHECKPOINT_AFTER)
        run.save(folder / each)
        (folder / f"{each}.losses").write_text("\n".join(run.train(KILLED_AFTER)))
    os.kill(os.getpid(), signal.SIGKILL)
