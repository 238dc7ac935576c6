"""`transformers.Trainer`.

    python -m examples.trainer

Projectors are trained, clipped, logged and kept in checkpoints along with the student; `save_model` writes the
student alone.
"""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments

from dskd_components.integrations.transformers import DSKDTrainer
from examples.command_line import command_line
from examples.tiny import Pair, tiny_pair

if TYPE_CHECKING:
    from pathlib import Path


def new_trainer(pair: Pair, folder: str | Path, *, shard_teacher: bool | None = None, **options: Any) -> DSKDTrainer:
    """Return a trainer for one epoch.

    Args:
        pair: models, loss and data.
        folder: for checkpoints.
        shard_teacher: as in `DSKDTrainer`.
        **options: further training arguments.
    """
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.4,
        "train_sampling_strategy": "sequential",  # the order of the other examples
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return DSKDTrainer(
        pair.student,
        TrainingArguments(output_dir=str(folder), **(defaults | options)),
        data_collator=pair.collate,
        train_dataset=pair.samples,
        eval_dataset=pair.samples[:5],
        loss_fn=pair.loss_fn,
        teacher=pair.teacher,
        projector_lr=2e-2,
        shard_teacher=shard_teacher,
    )


def train(pair: Pair) -> list[float]:
    """Train for one epoch; return the loss of each optimizer step."""
    with TemporaryDirectory() as folder:
        trainer = new_trainer(pair, folder)
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    command_line(__doc__).parse_args()
    for step, loss in enumerate(train(tiny_pair()), start=1):
        print(f"step {step}: {loss:.4f}")
