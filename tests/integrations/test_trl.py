"""TRL's trainer beyond its loss curve."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
from datasets import Dataset
from trl.trainer.sft_config import SFTConfig

from dskd_components import ConfigurationError
from dskd_components.integrations.trl import DSKDSFTTrainer
from examples.tiny import Pair, tiny_pair

if TYPE_CHECKING:
    from pathlib import Path


def trainer_of(pair: Pair, folder: Path, collate: Any, **options: Any) -> DSKDSFTTrainer:
    defaults = {"report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False, "bf16": False}
    # Older versions of TRL have the one name alone, newer ones the other.
    named = {field.name for field in fields(SFTConfig)}
    defaults |= {name: False for name in ("activation_checkpointing", "gradient_checkpointing") if name in named}
    arguments = SFTConfig(output_dir=str(folder), per_device_eval_batch_size=2, **(defaults | options))
    return DSKDSFTTrainer(
        pair.student,
        arguments,
        collate,
        train_dataset=Dataset.from_list(pair.samples),
        eval_dataset=Dataset.from_list(pair.samples[:5]),
        processing_class=pair.student_tokenizer,
        loss_fn=pair.loss_fn,
        teacher=pair.teacher,
    )


def test_samples_reach_the_collator_as_they_are(tmp_path: Path) -> None:
    pair = tiny_pair()
    trainer = trainer_of(pair, tmp_path, pair.collate)
    assert trainer.train_dataset[0] == pair.samples[0]
    (batch, *_) = trainer.get_eval_dataloader()
    assert batch.keys() == pair.collate(pair.samples[:2]).keys()


def test_evaluation_and_logs_are_the_losss(tmp_path: Path) -> None:
    pair = tiny_pair()
    trainer = trainer_of(pair, tmp_path, pair.collate, max_steps=1, logging_steps=1)
    expected = pair.loss_fn.run(pair.student.eval(), pair.teacher, pair.collate(pair.samples[:5]))
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-5)
    assert metrics["eval_s2t_kd"] == pytest.approx(expected.terms["s2t_kd"].item(), rel=1e-5)
    trainer.train()
    assert {"ce", "t2s_ce", "t2s_kd", "s2t_kd"} <= trainer.state.log_history[-2].keys()


def test_what_would_be_ignored_is_refused(tmp_path: Path) -> None:
    pair = tiny_pair()
    with pytest.raises(ConfigurationError, match=r"data_collator.*loss_fn.collator"):
        trainer_of(pair, tmp_path, None)
    with pytest.raises(ConfigurationError, match=r"SFTConfig\.packing.*packing=True"):
        trainer_of(pair, tmp_path, pair.collate, packing=True)
    with pytest.raises(ConfigurationError, match=r"SFTConfig\.assistant_only_loss"):
        trainer_of(pair, tmp_path, pair.collate, assistant_only_loss=True)
