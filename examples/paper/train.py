"""Training a row, by the library's trainer, from the last checkpoint if there is one."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from transformers import HfArgumentParser, Trainer, TrainingArguments

from examples.chats_with_lora import last_checkpoint
from examples.paper.models import on_accelerator
from examples.paper.recipe import PaperError, common
from examples.paper.rows import row_of
from examples.paper.trainers import new_trainer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from examples.paper.rows import Row

RECIPE = (
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "weight_decay",
    "max_grad_norm",
    "seed",
    "lr_scheduler_type",
)
"""Arguments by which a run is the recipe's or another; how a batch is cut over devices is not among them."""

_CHECKPOINTING = next(
    field.name
    for field in fields(TrainingArguments)
    if field.name in ("activation_checkpointing", "gradient_checkpointing")  # the latter is older
)


def recipe_arguments(row: Row, given: Sequence[str]) -> dict[str, Any]:
    """Return the recipe as defaults of training arguments.

    Args:
        row: what is trained.
        given: arguments of the command line, of which how a batch is cut is read.

    Raises:
        PaperError: the recipe's batch cannot be cut so.
    """
    training = row.training
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--per_device_train_batch_size", type=int, default=training.micro_batch_size)
    parser.add_argument("--gradient_accumulation_steps", type=int)
    cut = parser.parse_known_args(given)[0]
    together = cut.per_device_train_batch_size * int(os.environ.get("WORLD_SIZE", "1"))
    if cut.gradient_accumulation_steps is None and training.batch_size % together:
        raise PaperError(
            f"A batch of {training.batch_size} texts cannot be cut into micro-batches of {together} "
            f"({cut.per_device_train_batch_size} on each device). Give --per_device_train_batch_size N with which it "
            "can, or --gradient_accumulation_steps N, which makes it another batch."
        )
    return {
        "per_device_train_batch_size": cut.per_device_train_batch_size,
        "gradient_accumulation_steps": cut.gradient_accumulation_steps or training.batch_size // together,
        "per_device_eval_batch_size": common().generation.batch_size,
        "learning_rate": training.learning_rate,
        "num_train_epochs": training.epochs,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr": training.min_learning_rate},
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "seed": training.seed,
        _CHECKPOINTING: training.gradient_checkpointing,
        "bf16": on_accelerator(),
        "dataloader_pin_memory": on_accelerator(),
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "rouge_l",
        "greater_is_better": True,
        "logging_steps": 50,
        "report_to": "none",
        "remove_unused_columns": False,
    }


def main(arguments: Sequence[str]) -> Path:
    """Train a row, and save its model; return the row's folder.

    Args:
        arguments: of the command line.

    Raises:
        PaperError: something is missing; the message says what to do.
    """
    parser = argparse.ArgumentParser(
        prog="python -m examples.paper train",
        description="Train a row of the tables. All arguments of transformers.TrainingArguments may follow.",
        allow_abbrev=False,
    )
    parser.add_argument("--row", required=True, help="as gpt2-qwen/dskd-cma; `rows` lists all")
    parser.add_argument("--data", required=True, type=Path, help="folder that `prepare` has written")
    parser.add_argument("--output", required=True, type=Path, help="folder of all rows")
    parser.add_argument("--student", help="folder of the student")
    parser.add_argument("--teacher", help="folder of the fine-tuned teacher; of the untuned one for a row `teacher`")
    parser.add_argument("--dev_prompts", type=int, help="how many of dev are answered; default: all")
    parser.add_argument("--answer_tokens", type=int, help="the most tokens of an answer on dev; default: the recipe's")
    own, rest = parser.parse_known_args(arguments)
    row = row_of(own.row)
    folder: Path = own.output / row.name
    run_file = folder / "run.json"
    if run_file.is_file():
        print(f"{row.name} is trained already: {folder / 'model'}. To train it anew, remove {folder}.")
        return folder
    needed = {"student": not row.trains_teacher, "teacher": row.trains_teacher or row.spec is not None}
    if missing := [f"--{name} PATH" for name, is_needed in needed.items() if is_needed and not getattr(own, name)]:
        raise PaperError(f"{row.name} needs {' and '.join(missing)}.")

    hf_parser = HfArgumentParser(TrainingArguments)  # type: ignore[arg-type]
    defaults = recipe_arguments(row, rest)
    hf_parser.set_defaults(output_dir=str(folder), **defaults)
    # Before any model is loaded: under ZeRO-3 these make from_pretrained load into parts.
    (training,) = cast("tuple[TrainingArguments]", hf_parser.parse_args_into_dataclasses(rest))
    trainer = new_trainer(
        row, own.teacher if row.trains_teacher else own.student, own.teacher, own.data, training,
        dev_prompts=own.dev_prompts, answer_tokens=own.answer_tokens,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    if skipped := cast("Any", trainer.data_collator).skipped:
        print(f"Left out, each time that they came up: {dict(skipped)}")
    trainer.save_model(str(folder / "model"))
    if trainer.is_world_process_zero():
        trainer.tokenizer.save_pretrained(folder / "model")
        paths = {"student": own.student, "teacher": own.teacher}
        record = _record(row, training, defaults, trainer) | {"models": paths}
        run_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return folder


def _record(row: Row, training: TrainingArguments, defaults: dict[str, Any], trainer: Trainer) -> dict[str, Any]:
    """Return what is to be known of a run: what it was, and in what it was not the recipe's."""
    expected = {"max_steps": -1} | {name: value for name, value in defaults.items() if name in RECIPE}
    found = {name: getattr(training, name) for name in expected}
    other = {name: str(found[name]) for name in RECIPE if found[name] != expected[name]}
    batch = training.train_batch_size * training.gradient_accumulation_steps * trainer.accelerator.num_processes
    if batch != row.training.batch_size:
        other["batch_size"] = str(batch)
    return {
        "row": row.name,
        "spec": None if row.spec is None else json.loads(row.spec.model_dump_json()),
        "steps": trainer.state.global_step,
        "best": {"checkpoint": trainer.state.best_model_checkpoint, "metric": trainer.state.best_metric},
        "differs_from_recipe": other,
    }
