"""TRL's `SFTTrainer`.

    python -m examples.sft_trainer

The samples are not prepared for one model: `DualTokenizerCollator` makes batches of them for both.
"""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset
from trl.trainer.sft_config import SFTConfig

from dskd_components.integrations.trl import DSKDSFTTrainer
from examples.command_line import command_line
from examples.tiny import Pair, tiny_pair


def train(pair: Pair, **options: Any) -> list[float]:
    """Train for one epoch; return the loss of each optimizer step.

    Args:
        pair: models, loss and data.
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
        "bf16": False,  # and their precision
        "activation_checkpointing": True,  # TRL's default, by the name that transformers has for it
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    with TemporaryDirectory() as folder:
        trainer = DSKDSFTTrainer(
            pair.student,
            SFTConfig(output_dir=folder, **(defaults | options)),
            data_collator=pair.collate,
            train_dataset=Dataset.from_list(pair.samples),
            processing_class=pair.student_tokenizer,
            loss_fn=pair.loss_fn,
            teacher=pair.teacher,
            projector_lr=2e-2,
        )
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    command_line(__doc__).parse_args()
    for step, loss in enumerate(train(tiny_pair()), start=1):
        print(f"step {step}: {loss:.4f}")
