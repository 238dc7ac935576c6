"""A trainer that is given no collator says how to get one, whatever the samples are, before its first step."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import datasets
import pytest
import torch
from transformers import DataCollatorWithPadding, TrainingArguments, default_data_collator

from dskd_components import ConfigurationError, DSKDSpec, DualTokenizerCollator
from dskd_components.integrations.transformers import DSKDTrainer
from examples.tiny import Pair, tiny_pair
from tests.helpers.sample_kinds import OF_TWO_TOKENIZERS

if TYPE_CHECKING:
    from pathlib import Path

OTHERS: dict[str, dict[str, Any]] = {
    "an id": {"id": 3, "text": "a"},
    "no mapping": "a text",  # type: ignore[dict-item]
    "an image": {"pixel_values": [[0.5]]},
}


@pytest.fixture(scope="module")
def pair() -> Pair:
    return tiny_pair(spec=DSKDSpec.preset("dskd", aligner="span"))


def trainer(pair: Pair, folder: Path, samples: Any, **options: Any) -> DSKDTrainer:
    arguments = TrainingArguments(
        output_dir=str(folder), report_to="none", disable_tqdm=True, dataloader_pin_memory=False, max_steps=1,
        per_device_train_batch_size=2, per_device_eval_batch_size=2,
    )  # fmt: skip
    given = {"loss_fn": pair.loss_fn, "teacher": pair.teacher, "train_dataset": samples, "eval_dataset": samples}
    return DSKDTrainer(pair.student, arguments, **(given | options))


@pytest.mark.parametrize(
    ("kind", "with_tokenizer"), list(zip(OF_TWO_TOKENIZERS | OTHERS, itertools.cycle([True, False]), strict=False))
)
def test_it_says_how_to_get_one(pair: Pair, tmp_path: Path, kind: str, with_tokenizer: bool) -> None:
    sample = (OF_TWO_TOKENIZERS | OTHERS)[kind]
    options = {"processing_class": pair.student_tokenizer} if with_tokenizer else {}
    made = trainer(pair, tmp_path, [sample] * 4, **options)
    before = [parameter.detach().clone() for parameter in pair.student.parameters()]
    for run in (made.train, made.evaluate, lambda: made.predict([sample] * 4)):
        with pytest.raises(ConfigurationError, match="data_collator: none was given") as caught:
            run()
        message = str(caught.value)
        assert "data_collator=loss_fn.collator(student_tokenizer, teacher_tokenizer)" in message
        assert "aligns for 'span'" in message
        assert "The first sample: " in message
    assert all(map(torch.equal, before, pair.student.parameters()))


def test_streams_and_data_sets_too(pair: Pair, tmp_path: Path) -> None:
    data = datasets.Dataset.from_list([{"text": "the statement"}] * 4)
    for samples in (data, data.to_iterable_dataset()):
        with pytest.raises(ConfigurationError, match=r"data_collator: none was given.*'text': 'the statement'"):
            trainer(pair, tmp_path, samples).train()


def test_preprocessed_rows_of_several_lengths_need_one_too(pair: Pair, tmp_path: Path) -> None:
    rows = [pair.collate.encoder.encode([sample])[0] for sample in pair.samples[:2]]
    samples = [{"student_input_ids": row.student.input_ids.tolist()} for row in rows]  # type: ignore[union-attr]
    samples[0]["student_input_ids"] = samples[0]["student_input_ids"][:3]
    with pytest.raises(ConfigurationError, match="data_collator: none was given") as caught:
        trainer(pair, tmp_path, samples).train()
    assert caught.value.__cause__ is not None


def test_rows_that_are_collated_already_need_none(pair: Pair, tmp_path: Path) -> None:
    batch = pair.collate(pair.samples[:4])
    rows = [{name: column[row] for name, column in batch.items()} for row in range(4)]
    made = trainer(pair, tmp_path, rows)
    made.train()
    assert made.state.global_step == 1


@pytest.mark.parametrize("collate", [default_data_collator, None])
def test_a_collator_of_the_users_own_stays_what_it_is(pair: Pair, tmp_path: Path, collate: Any) -> None:
    own = DualTokenizerCollator(pair.student_tokenizer, pair.teacher_tokenizer, aligner="span")
    made = trainer(pair, tmp_path, pair.samples, data_collator=collate or own)
    assert (made.data_collator is own) == (collate is None)

    class Own(DataCollatorWithPadding):
        pass

    mine = Own(pair.student_tokenizer)
    assert trainer(pair, tmp_path, pair.samples, data_collator=mine).data_collator is mine
