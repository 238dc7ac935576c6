"""On-policy distillation: the student writes, both models score what it wrote.

    python -m examples.on_policy

The loss does not care where tokens came from: what the student generates becomes text, and the collator tokenizes that
text for both, as it does with any other. Loaders give prompts alone; what is counted, and divides the losses of an
optimizer step, is what was written.
"""

from __future__ import annotations

from itertools import islice
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import AdamW
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from dskd_components import clip_grad_norms, scored_tokens
from dskd_components.integrations.transformers import DSKDTrainer
from examples.command_line import command_line
from examples.tiny import Pair, tiny_pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

MICRO_BATCHES = 2


def prompts_of(samples: Sequence[dict[str, str]]) -> dict[str, list[str]]:
    """Collate prompts alone; a loader's `collate_fn`."""
    return {"prompts": [sample["prompt"] for sample in samples]}


@torch.no_grad()
def respond(pair: Pair, prompts: Sequence[str], *, max_new_tokens: int = 12) -> list[dict[str, str]]:
    """Let the student go on with each prompt, by sampling; return samples."""
    pair.student.eval()
    samples = []
    for prompt in prompts:
        inputs = pair.student_tokenizer(prompt, return_tensors="pt").to(pair.student.device)
        tokens = pair.student.generate(  # type: ignore[operator]
            **inputs,
            do_sample=True,
            max_new_tokens=max_new_tokens,
            bad_words_ids=[[pair.student_tokenizer.pad_token_id]],
        )
        written = tokens[0, inputs["input_ids"].shape[1] :]
        response = pair.student_tokenizer.decode(written, skip_special_tokens=True)
        # What was written up to the limit has no end, and the student is not to learn one there.
        finish_reason = "length" if len(written) == max_new_tokens else "stop"
        samples.append({"prompt": prompt, "response": f" {response}", "finish_reason": finish_reason})
    pair.student.train()
    return samples


def written_batch(pair: Pair, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Return a batch of what the student writes to some prompts, as any other batch."""
    return pair.collate(respond(pair, prompts))


def train(pair: Pair) -> list[float]:
    """Train for one epoch of prompts, in a loop of one's own; return the loss of each optimizer step."""
    optimizer = AdamW([{"params": pair.student.parameters(), "lr": 1e-2}, *pair.loss_fn.param_groups(lr=2e-2)])
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    prompts = iter(DataLoader(pair.samples, batch_size=2, collate_fn=prompts_of))  # type: ignore[arg-type]
    losses = []
    while loaded := list(islice(prompts, MICRO_BATCHES)):
        window = [written_batch(pair, batch["prompts"]) for batch in loaded]
        num_items = scored_tokens(window)
        loss = 0.0
        for batch in window:
            out = pair.loss_fn.run(pair.student, pair.teacher, batch, num_items_in_batch=num_items)
            out.loss.backward()
            loss += out.loss.item()
        clip_grad_norms(pair.student, pair.loss_fn, 0.4)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
    return losses


class OnPolicyTrainer(DSKDTrainer):
    """A trainer whose loader gives prompts, and which trains on what the student writes to them.

    Args:
        pair: models and collator.
        *args: as in `DSKDTrainer`.
        **kwargs: as in `DSKDTrainer`.
    """

    def __init__(self, pair: Pair, *args: Any, **kwargs: Any) -> None:
        self.pair = pair
        super().__init__(*args, **kwargs)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Return what is written to the prompts of an optimizer step, and how many tokens of it are scored."""
        loaded, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = [written_batch(self.pair, batch["prompts"]) for batch in loaded]
        return batches, self.count_scored_tokens(batches, device)


def train_with_trainer(pair: Pair, **options: Any) -> list[float]:
    """Train for one epoch of prompts, in a `transformers.Trainer`; return the loss of each optimizer step.

    Args:
        pair: models, loss and data.
        **options: further training arguments.
    """
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": MICRO_BATCHES,
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.4,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    with TemporaryDirectory() as folder:
        trainer = OnPolicyTrainer(
            pair,
            pair.student,
            TrainingArguments(output_dir=folder, **(defaults | options)),
            data_collator=prompts_of,
            train_dataset=pair.samples,
            loss_fn=pair.loss_fn,
            teacher=pair.teacher,
            projector_lr=2e-2,
        )
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    command_line(__doc__).parse_args()
    for name, loop in (("a loop of one's own", train), ("Trainer", train_with_trainer)):
        torch.manual_seed(0)
        for step, loss in enumerate(loop(tiny_pair()), start=1):
            print(f"{name}, step {step}: {loss:.4f}")
