"""`DSKDTrainer` under any launcher: what shards, reduces and scales is said in the launcher's file, and nowhere else.

    accelerate launch --config_file examples/launchers/ddp.yaml -m examples.launchers.train --output_dir output
    accelerate launch --config_file examples/launchers/fsdp2.yaml -m examples.launchers.train --output_dir output
    accelerate launch --config_file examples/launchers/deepspeed.yaml -m examples.launchers.train --output_dir output
    torchrun --nproc-per-node 2 -m examples.launchers.train --output_dir output --fsdp \
        --fsdp_config examples/launchers/fsdp2.json
    deepspeed --num_gpus 2 --no_local_rank --module examples.launchers.train --output_dir output \
        --deepspeed examples/launchers/zero3.json

It takes all training arguments, and ``--lora``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import LoraConfig, get_peft_model
from transformers import HfArgumentParser, TrainingArguments

from dskd_components.integrations.transformers import DSKDTrainer
from examples.tiny import tiny_pair

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class Options:
    """What is not an argument of training.

    Args:
        lora: whether the student is trained by adapters alone.
    """

    lora: bool = False


def main(arguments: Sequence[str] | None = None) -> DSKDTrainer:
    """Train, and save the student.

    Args:
        arguments: of the command line; None: those that the process was started with.
    """
    parser = HfArgumentParser([Options, TrainingArguments])  # type: ignore[list-item]  # typed for one class
    parser.set_defaults(
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        num_train_epochs=1,
        learning_rate=1e-2,
        max_grad_norm=0.4,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    # Before any model is loaded: under ZeRO-3 these make from_pretrained load into parts, under FSDP2 on one rank.
    options, training, unread = cast(
        "tuple[Options, TrainingArguments, list[str]]",
        parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True),
    )
    if unread:
        parser.error(f"unrecognized arguments: {' '.join(unread)}")
    pair = tiny_pair()
    student: Any = pair.student
    if options.lora:
        student = get_peft_model(student, LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))
    trainer = DSKDTrainer(
        student,
        training,
        data_collator=pair.collate,
        train_dataset=pair.samples,
        eval_dataset=pair.samples[:5],
        loss_fn=pair.loss_fn,
        teacher=pair.teacher,
        projector_lr=2e-2,
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()
    return trainer


if __name__ == "__main__":
    main()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Threads of a process group that outlive the interpreter can abort it, after all is done.
        torch.distributed.destroy_process_group()
