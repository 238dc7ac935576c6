"""The trainers of the rows: the library's, and transformers' where there is no teacher; both measure Rouge-L on dev."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, set_seed
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from dskd_components import DSKDLoss, DualTokenizerCollator
from dskd_components.integrations.transformers import DSKDTrainer
from examples.paper.answers import Writer
from examples.paper.data import read_part
from examples.paper.models import load_model, load_tokenizer, longest
from examples.paper.recipe import PaperError, common
from examples.paper.scores import mean_rouge_l

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import TrainingArguments

    from examples.paper.data import Sample
    from examples.paper.rows import Row

    Base = Trainer
else:
    Base = object


class RougeOnDev(Base):
    """Makes a trainer measure Rouge-L on dev at each evaluation, where checkpoints are chosen by it.

    Args:
        *args: as in the trainer.
        tokenizer: of the model.
        dev: what is asked; each rank answers its share.
        answer_tokens: as in `Writer`.
        **kwargs: as in the trainer.
    """

    def __init__(
        self, *args: Any, tokenizer: Any, dev: Sequence[Sample], answer_tokens: int | None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.tokenizer = tokenizer
        self.dev = dev
        self.answer_tokens = answer_tokens
        if self.by_rouge and (self.is_fsdp_enabled or is_deepspeed_zero3_enabled()):
            raise PaperError(
                "A student that is cut over devices writes no answers in between, by which checkpoints are chosen. "
                "Choose by the loss: --metric_for_best_model eval_loss --greater_is_better false"
            )

    @property
    def by_rouge(self) -> bool:
        """Whether checkpoints are chosen by it."""
        return str(self.args.metric_for_best_model).removeprefix("eval_") == "rouge_l"

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as the trainer does, and by ``eval_rouge_l``."""
        metrics = super().evaluate(*args, **kwargs)
        if self.by_rouge:
            metrics["eval_rouge_l"] = self._rouge_l()
            self.log({"eval_rouge_l": metrics["eval_rouge_l"]})
        return metrics

    def _rouge_l(self) -> float:
        generation = common().generation
        own = list(self.dev[self.accelerator.process_index :: self.accelerator.num_processes])
        model = cast("Any", self.model)
        writer = Writer(model, self.tokenizer, no_repeat_ngram_size=0, answer_tokens=self.answer_tokens)
        total = 0.0
        for sampling in range(generation.dev_samplings if own else 0):
            prompts = [sample.prompt for sample in own]
            batches = writer.answers(prompts, seed=sampling, batch_size=self.args.per_device_eval_batch_size)
            with self.compute_loss_context_manager():
                answers = [answer for batch in batches for answer in batch]
            total += mean_rouge_l(answers, own) * len(own)
        sums = torch.tensor([total, float(generation.dev_samplings * len(own))], device=self.args.device)
        total, count = cast("Tensor", self.accelerator.reduce(sums, reduction="sum")).tolist()
        return float(total / count)


class RougeTrainer(RougeOnDev, Trainer):
    """Cross entropy alone."""


class RougeDSKDTrainer(RougeOnDev, DSKDTrainer):
    """Distillation."""


def new_trainer(
    row: Row,
    model_path: str,
    teacher_path: str | None,
    data: Path,
    training: TrainingArguments,
    *,
    dev_prompts: int | None = None,
    answer_tokens: int | None = None,
) -> RougeTrainer | RougeDSKDTrainer:
    """Load models and texts, and return the trainer of a row.

    Args:
        row: what is trained.
        model_path: folder of the model that is trained.
        teacher_path: folder of the teacher, if the row has one.
        data: folder that `prepare` has written.
        training: arguments.
        dev_prompts: how many texts of dev are answered; None: all.
        answer_tokens: the most tokens of an answer on dev; None: the recipe's.
    """
    train, dev = read_part(data, "train"), read_part(data, "dev")
    tokenizer = load_tokenizer(model_path, row.model)
    model: Any = load_model(model_path, row.model, frozen=False)
    set_seed(training.seed)
    if (lora := row.training.lora) is not None:
        adapters = LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, task_type="CAUSAL_LM")
        model = get_peft_model(model, adapters)
    if row.spec is None:
        limit = longest([model], common().texts.max_length)
        tokenizers = [tokenizer]
        kind: Any = RougeTrainer
        options: dict[str, Any] = {"data_collator": OneSide(tokenizer, limit)}
    else:
        assert teacher_path is not None
        teacher = load_model(teacher_path, row.pair.teacher, frozen=True)
        limit = longest([model, teacher], common().texts.max_length)
        tokenizers = [tokenizer, load_tokenizer(teacher_path, row.pair.teacher)]
        kind = RougeDSKDTrainer
        loss_fn = DSKDLoss.from_models(row.spec, model, teacher, *tokenizers)
        limits: dict[str, Any] = {"student_max_length": limit, "teacher_max_length": limit}
        options = {
            "data_collator": loss_fn.collator(*tokenizers, **limits, on_error="skip"),
            "loss_fn": loss_fn,
            "teacher": teacher,
            "projector_lr": row.method.projector_lr,
        }
    longest_prompt = min(common().texts.max_prompt_length, limit - 1)
    learned, measured = (short(part, tokenizers, longest_prompt) for part in (train, dev))
    trainer: RougeTrainer | RougeDSKDTrainer = kind(
        model,
        training,
        train_dataset=[sample.pair() for sample in learned],
        eval_dataset=[sample.pair() for sample in measured],
        tokenizer=tokenizer,
        dev=dev[:dev_prompts],
        answer_tokens=answer_tokens,
        **options,
    )
    if trainer.is_world_process_zero():
        print(
            f"{row.name}: {row.title}; {len(learned):,} texts, {len(train) - len(learned):,} left out for prompts of "
            f"more than {longest_prompt} tokens"
        )
    return trainer


class OneSide:
    """Makes batches for one model, with the labels that it has as a student.

    Args:
        tokenizer: of the model.
        limit: the most tokens of a text.
    """

    def __init__(self, tokenizer: Any, limit: int) -> None:
        self._both = DualTokenizerCollator(
            tokenizer, tokenizer, aligner=None, student_max_length=limit, on_error="skip"
        )

    @property
    def skipped(self) -> Counter[Any]:
        """How many texts could not be used, by reason."""
        return Counter(self._both.skipped)

    def __call__(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        """Return the columns that a model of transformers reads."""
        batch = self._both(samples)
        return {name: batch[f"student_{name}"] for name in ("input_ids", "attention_mask", "labels")}


def short(samples: Sequence[Sample], tokenizers: Sequence[Any], limit: int) -> list[Sample]:
    """Return the samples whose prompts are short enough for all tokenizers.

    Args:
        samples: some.
        tokenizers: of all models.
        limit: the most tokens of a prompt.

    Raises:
        PaperError: there are none.
    """
    prompts = [sample.prompt for sample in samples]
    counts = [[len(ids) for ids in tokenizer(prompts)["input_ids"]] for tokenizer in tokenizers]
    kept = [sample for sample, *lengths in zip(samples, *counts, strict=True) if max(lengths) <= limit]
    if not kept:
        raise PaperError(f"None of {len(samples)} texts has a prompt of at most {limit} tokens.")
    return kept
