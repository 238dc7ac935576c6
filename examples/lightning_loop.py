"""`lightning.Trainer`.

    python -m examples.lightning_loop

Accumulation, clipping, precision and strategies are Lightning's; checkpoints hold student and projectors, but not the
teacher.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from dskd_components.integrations.lightning import DSKDLightningModule
from examples.command_line import command_line
from examples.tiny import Pair, tiny_pair


class Losses(Callback):
    """Keeps the loss of each optimizer step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:  # noqa: ARG002
        """Add the loss, if this batch was the last of a step."""
        if trainer.global_step > len(self.values):
            self.values.append(trainer.callback_metrics["train_loss"].item())


def train(pair: Pair, **options: Any) -> list[float]:
    """Train for one epoch; return the loss of each optimizer step.

    Args:
        pair: models, loss and data.
        **options: further options of the trainer.
    """
    losses = Losses()
    module = DSKDLightningModule(pair.student, pair.teacher, pair.loss_fn, lr=1e-2, projector_lr=2e-2)
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "accumulate_grad_batches": 2,
        "gradient_clip_val": 0.4,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(callbacks=[losses, *options.pop("callbacks", ())], **(defaults | options))
    trainer.fit(module, DataLoader(pair.samples, batch_size=2, collate_fn=pair.collate))  # type: ignore[arg-type]
    return losses.values


if __name__ == "__main__":
    command_line(__doc__).parse_args()
    for step, loss in enumerate(train(tiny_pair()), start=1):
        print(f"step {step}: {loss:.4f}")
