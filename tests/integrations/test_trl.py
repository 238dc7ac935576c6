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


def trainer_of(
    pair: Pair, folder: Path, collate: Any, *, formatting_func: Any = None, **options: Any
) -> DSKDSFTTrainer:
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
        formatting_func=formatting_func,
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
    with pytest.raises(ConfigurationError, match=r"formatting_func.*map"):
        trainer_of(pair, tmp_path, pair.collate, formatting_func=str)


@pytest.mark.parametrize(
    ("option", "value", "instead"),
    [
        ("packing", True, "packing=True"),
        ("eval_packing", True, "packing=True"),
        ("padding_free", True, "packing=True"),
        ("assistant_only_loss", True, "messages"),
        ("completion_only_loss", False, "train_on_prompt=True"),
        ("max_length", 64, "student_max_length=64"),
        ("pad_to_multiple_of", 8, "pad_to_multiple_of=8"),
        ("dataset_text_field", "content", "columns="),
        ("chat_template_path", "template.jinja", "chat_template"),
        ("loss_type", "dft", "loss_fn"),
    ],
)
def test_options_of_what_the_base_class_does_are_refused(
    option: str, value: object, instead: str, tmp_path: Path
) -> None:
    """These shape data and a loss of one model, which nobody makes here: each passed without a word."""
    if option not in {field.name for field in fields(SFTConfig)}:
        pytest.skip(f"this version of TRL has no {option}")
    pair = tiny_pair()
    with pytest.raises(ConfigurationError, match=rf"SFTConfig\.{option}={value!r} would.*{instead}"):
        trainer_of(pair, tmp_path, pair.collate, **{option: value})


@pytest.mark.parametrize(("option", "value"), [("max_length", None), ("completion_only_loss", True)])
def test_options_that_say_what_is_so_are_no_error(option: str, value: object, tmp_path: Path) -> None:
    pair = tiny_pair()
    trainer_of(pair, tmp_path, pair.collate, **{option: value})


def test_data_are_shuffled_if_they_are_to_be(tmp_path: Path) -> None:
    pair = tiny_pair()
    trainer = trainer_of(pair, tmp_path, pair.collate, shuffle_dataset=True, seed=3)
    assert list(trainer.train_dataset) == list(Dataset.from_list(pair.samples).shuffle(seed=3))
    assert list(trainer.train_dataset) != pair.samples
