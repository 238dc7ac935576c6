"""What a trainer does with the inputs of its one model: counts their tokens, and hands them to metrics."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from dskd_components import ConfigurationError, DSKDLoss, DSKDSpec, DualTokenizerCollator
from dskd_components.integrations.transformers import DSKDTrainer
from examples.tiny import Pair, tiny_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

Batch = dict[str, "Tensor"]


def collator(pair: Pair, **options: Any) -> DualTokenizerCollator:
    return DualTokenizerCollator(pair.student_tokenizer, pair.teacher_tokenizer, aligner="exact_match", **options)


def one_tokenizer(pair: Pair) -> Callable[[Any], Batch]:
    """Columns without prefix, as collators of others make them."""
    collate = DualTokenizerCollator(pair.teacher_tokenizer, pair.teacher_tokenizer, aligner=None)

    def unprefixed(samples: Any) -> Batch:
        batch = collate(samples)
        return {name: batch[f"student_{name}"] for name in ("input_ids", "labels", "attention_mask")}

    return unprefixed


LAYOUTS: dict[str, Callable[[Pair], Any]] = {
    "right": lambda pair: collator(pair, pad_to_multiple_of=8),
    "left": lambda pair: collator(pair, padding_side="left"),
    "packed": lambda pair: collator(pair, packing=True, pad_to_multiple_of=16),
    "without prefix": one_tokenizer,
}


@pytest.fixture(scope="module")
def two() -> Pair:
    return tiny_pair(spec=DSKDSpec.preset("dskd", aligner="exact_match"))


def set_up(pair: Pair, layout: str, folder: Path, **options: Any) -> DSKDTrainer:
    given = {name: options.pop(name) for name in ("compute_metrics",) if name in options}
    student, loss_fn = pair.student, pair.loss_fn
    if layout == "without prefix":
        torch.manual_seed(0)
        student = pair.teacher.__class__(pair.teacher.config)
        loss_fn = DSKDLoss.from_models(DSKDSpec.preset("dskd"), student, pair.teacher)
    defaults: dict[str, Any] = {"report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False}
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        per_device_eval_batch_size=3,
        train_sampling_strategy="sequential",
        logging_steps=1,
        **(defaults | options),
    )
    return DSKDTrainer(
        student,
        arguments,
        data_collator=LAYOUTS[layout](pair),
        train_dataset=pair.samples[:8],
        eval_dataset=pair.samples[:4],
        loss_fn=loss_fn,
        teacher=pair.teacher,
        **given,
    )


def student_ids(batch: Mapping[str, Tensor]) -> Tensor:
    return batch.get("student_input_ids", batch.get("input_ids"))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("layout", "counted"),
    [*product(LAYOUTS, ["all", "non_padding"]), *product(["right"], [True, "no", False])],
)
def test_the_tokens_of_the_student_are_counted(two: Pair, layout: str, counted: Any, tmp_path: Path) -> None:
    trainer = set_up(two, layout, tmp_path, include_num_input_tokens_seen=counted, max_steps=2)
    batches = [trainer.data_collator(two.samples[first : first + 2]) for first in (0, 2)]
    everything = [student_ids(batch).numel() for batch in batches]
    # Without a multiple to pad to, one sample alone has no padding.
    alone = one_tokenizer(two) if layout == "without prefix" else collator(two)
    real = [student_ids(alone([sample])).numel() for sample in two.samples[:4]]
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    if counted in ("no", False):
        assert trainer.state.num_input_tokens_seen == 0
        assert not any("num_input_tokens_seen" in entry for entry in log)
        return
    per_step = [sum(real[:2]), sum(real[2:])] if counted == "non_padding" else everything
    assert [entry["num_input_tokens_seen"] for entry in log] == [per_step[0], sum(per_step)]
    assert sum(real) <= sum(everything)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_operations_of_the_student_are_counted(two: Pair, layout: str, tmp_path: Path) -> None:
    trainer = set_up(two, layout, tmp_path)
    batch = trainer.data_collator(two.samples[:2])
    parameters = trainer.model.num_parameters(exclude_embeddings=True)
    assert trainer.floating_point_ops(batch) == 6 * student_ids(batch).numel() * parameters > 0


@pytest.mark.parametrize(
    ("layout", "each_batch", "include"),
    [*product(LAYOUTS, [False, True], [["inputs", "loss"]]), *product(["right"], [False], [[], ["inputs"], ["loss"]])],
)
def test_metrics_get_what_they_ask_for(
    two: Pair, layout: str, each_batch: bool, include: list[str], tmp_path: Path
) -> None:
    seen: list[Any] = []

    def compute_metrics(prediction: Any, compute_result: bool = True) -> dict[str, float]:
        seen.append(prediction)
        return {"mine": 1.0}

    trainer = set_up(
        two,
        layout,
        tmp_path,
        compute_metrics=compute_metrics,
        include_for_metrics=include,
        batch_eval_metrics=each_batch,
    )
    plain = set_up(two, layout, tmp_path)
    metrics = trainer.evaluate()
    assert metrics["eval_mine"] == 1.0
    assert metrics["eval_loss"] == plain.evaluate()["eval_loss"]
    batches = [trainer.data_collator(two.samples[first:last]) for first, last in ((0, 3), (3, 4))]
    assert len(seen) == (2 if each_batch else 1)
    for prediction in seen:
        assert (prediction.inputs is not None) == ("inputs" in include)
        assert (prediction.losses is not None) == ("loss" in include)
    if "inputs" in include:
        found = [prediction.inputs["input_ids"].numpy() if each_batch else prediction.inputs for prediction in seen]
        rows = [row[row != -100] for rows in found for row in np.asarray(rows)]
        expected = [row for batch in batches for row in student_ids(batch).numpy()]
        assert [row[: len(other)].tolist() for row, other in zip(rows, expected, strict=True)] == [
            row.tolist() for row in expected
        ]
    seen.clear()
    if not each_batch:
        assert trainer.predict(two.samples[:2]).metrics["test_mine"] == 1.0  # type: ignore[arg-type]
        assert (seen[0].inputs is not None) == ("inputs" in include)


def sampled(pair: Pair, data: Any, folder: Path, strategy: str, **options: Any) -> list[list[int]]:
    """The samples of each micro-batch of an epoch, by their places."""
    torch.manual_seed(0)
    trainer = DSKDTrainer(
        pair.student,
        TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=2,
            train_sampling_strategy=strategy,
            report_to="none",
            dataloader_pin_memory=False,
        ),
        data_collator=lambda places: {"student_labels": torch.tensor([sample["place"] for sample in places])},
        train_dataset=data,
        loss_fn=pair.loss_fn,
        teacher=pair.teacher,
        **options,
    )
    return [batch["student_labels"].tolist() for batch in trainer.get_train_dataloader()]


@pytest.mark.parametrize("strategy", ["group_by_length", "batch_rebalance"])
def test_samples_are_grouped_by_the_students_tokens(strategy: str, two: Pair, tmp_path: Path) -> None:
    """As by a column of lengths; without one the trainer looked for `input_ids`, which samples for two do not have."""
    lengths = [5, 1, 9, 2, 8, 3, 7, 4]
    rows = [
        {"student_input_ids": [1] * length, "teacher_input_ids": [1], "place": place}
        for place, length in enumerate(lengths)
    ]
    with_lengths = Dataset.from_list([row | {"length": length} for row, length in zip(rows, lengths, strict=True)])
    expected = sampled(two, with_lengths, tmp_path, strategy)
    assert expected != sampled(two, rows, tmp_path, "sequential")
    for data in (rows, Dataset.from_list(rows)):
        for options in ({}, {"processing_class": two.student_tokenizer}):
            assert sampled(two, data, tmp_path, strategy, **options) == expected
    unprefixed = [{"input_ids": row["student_input_ids"], "place": row["place"]} for row in rows]
    assert sampled(two, unprefixed, tmp_path, strategy) == expected


@pytest.mark.parametrize("strategy", ["group_by_length", "batch_rebalance"])
def test_samples_without_tokens_have_no_lengths(strategy: str, two: Pair, tmp_path: Path) -> None:
    for data in (two.samples, Dataset.from_list(two.samples)):
        with pytest.raises(ConfigurationError, match=rf"{strategy}.*'prompt'.*Preprocessor.*'length'.*ignore"):
            sampled(two, data, tmp_path, strategy)
