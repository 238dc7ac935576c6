"""Two models, chats, LoRA: from the first look to a student that can be shipped, and on-policy after it.

    python -m examples.chats_with_lora run                                       # a tiny pair, seconds
    python -m examples.chats_with_lora run --student FOLDER --teacher FOLDER     # models of your own

The text is real: questions about functions of the standard library, answered by their documentation. Killed at any
moment, the same command goes on from the last checkpoint. Each stage is a function: `look`, `train`, `export`,
`write_and_learn`.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import resource
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback, TrainingArguments

from dskd_components import DSKDLoss, DSKDSpec, DualTokenizerCollator
from dskd_components.integrations.transformers import DSKDTrainer
from examples.tiny import tiny_pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

MODULES: Final = ("textwrap", "shlex", "bisect", "heapq", "fnmatch", "shutil", "statistics", "string", "os.path")
TERMS: Final = ("loss", "ce", "t2s_ce", "t2s_kd", "s2t_kd")
SHOWN: Final = (*TERMS, "grad_norm", "projector_grad_norm", *(f"eval_{name}" for name in TERMS))

PLAIN_TEMPLATE: Final = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
GEMMA_TEMPLATE: Final = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""For tokenizers that bring none. A model that was trained on chats needs the tokens that it was trained with."""

Chat = dict[str, Any]


@dataclass(frozen=True)
class Models:
    """Both models with their tokenizers.

    Args:
        student: a model, or one with adapters, that learns.
        teacher: does not.
        student_tokenizer: of the student.
        teacher_tokenizer: of the teacher.
    """

    student: Any
    teacher: PreTrainedModel
    student_tokenizer: Any
    teacher_tokenizer: Any

    def loss(self, spec: DSKDSpec) -> DSKDLoss:
        """Return a new loss between them."""
        return DSKDLoss.from_models(spec, self.student, self.teacher, self.student_tokenizer, self.teacher_tokenizer)

    def collator(self, loss_fn: DSKDLoss, **options: Any) -> DualTokenizerCollator:
        """Return what makes batches for a loss; longer chats are cut, on both sides at one place."""
        limits = {
            "student_max_length": min(512, self.student.config.max_position_embeddings),
            "teacher_max_length": min(512, self.teacher.config.max_position_embeddings),
        }
        return loss_fn.collator(self.student_tokenizer, self.teacher_tokenizer, **limits, **options)


def load(student: str | None, teacher: str | None) -> Models:
    """Load both models from folders, in bfloat16; without folders, build a tiny pair."""
    if student is None or teacher is None:
        pair = tiny_pair()
        models = Models(pair.student, pair.teacher, pair.student_tokenizer, pair.teacher_tokenizer)
    else:
        models = Models(
            student=AutoModelForCausalLM.from_pretrained(student, dtype=torch.bfloat16),
            teacher=AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.bfloat16),
            student_tokenizer=AutoTokenizer.from_pretrained(student),
            teacher_tokenizer=AutoTokenizer.from_pretrained(teacher),
        )
    models.teacher.eval()
    for tokenizer in (models.student_tokenizer, models.teacher_tokenizer):
        if tokenizer.chat_template is None:
            has_turns = "<start_of_turn>" in tokenizer.get_vocab()
            tokenizer.chat_template = GEMMA_TEMPLATE if has_turns else PLAIN_TEMPLATE
    return models


def chats() -> list[Chat]:
    """Return chats about the standard library: a question, and the first paragraph of the documentation."""
    found = []
    for name in MODULES:
        for function, value in inspect.getmembers(importlib.import_module(name), inspect.isfunction):
            answer = " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())
            if not function.startswith("_") and 20 < len(answer) < 160:
                question = {"role": "user", "content": f"What does {name}.{function} do?"}
                found.append({"messages": [question, {"role": "assistant", "content": answer}]})
    return found


def all_spaces(steps: int) -> DSKDSpec:
    """Return a spec with projectors, to show what becomes of them, and a space that needs none.

    Args:
        steps: optimizer steps, over which the share of distillation rises.
    """
    return DSKDSpec(
        aligner="exact_match",
        spaces=["shared_tokens", "student", "teacher"],
        kd_rate={"name": "linear", "start": 0.1, "end": 0.3, "steps": steps},
    )


def look(models: Models, samples: Sequence[Chat], *, steps: int) -> DSKDSpec:
    """Print what preflight says of the pair and what a batch has of a chat; return the spec that is trained with.

    Args:
        models: the pair, with adapters: memory is stated for what is trained.
        samples: some of those to train on.
        steps: optimizer steps, over which the share of distillation rises.
    """
    spec = all_spaces(steps)
    report = DSKDLoss.preflight(
        models.student,
        models.teacher,
        models.student_tokenizer,
        models.teacher_tokenizer,
        spec=spec,
        samples=samples,
        tokens_per_step=512,
    )
    print(report.to_text())
    report.raise_if_failed()
    print(models.collator(models.loss(spec)).show(samples[0]))
    return spec


def train(
    models: Models,
    spec: DSKDSpec,
    training: Sequence[Chat],
    evaluation: Sequence[Chat],
    folder: Path,
    *,
    steps: int,
    kill_at: int | None = None,
) -> DSKDTrainer:
    """Train the student's adapters, from the last checkpoint in a folder if there is one; return the trainer.

    Args:
        models: the pair, with adapters.
        spec: of the loss.
        training: chats to train on.
        evaluation: chats to evaluate on.
        folder: for checkpoints.
        steps: optimizer steps in all.
        kill_at: optimizer step at which the process kills itself, before it saves or logs anything of that step.
    """
    torch.manual_seed(0)  # of new projectors
    loss_fn = models.loss(spec)
    every = max(1, steps // 3)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=5e-4,
        max_grad_norm=1.0,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=every,
        save_steps=every,
        load_best_model_at_end=True,
        metric_for_best_model="eval_ce",
        greater_is_better=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = DSKDTrainer(
        models.student,
        arguments,
        data_collator=models.collator(loss_fn),
        train_dataset=training,
        eval_dataset=evaluation,
        loss_fn=loss_fn,
        teacher=models.teacher,
        projector_lr=1e-4,  # larger steps undo the start that projectors have from the heads
        callbacks=[Progress(kill_at)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    return trainer


def with_adapters(models: Models, seed: int = 0) -> Models:
    """Return models whose student has new LoRA adapters, of which alone it is trained."""
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=8,
        lora_alpha=16,
        lora_dropout=0.05,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        fan_in_fan_out=models.student.config.model_type == "gpt2",  # whose weights are transposed
    )
    return replace(models, student=get_peft_model(models.student, lora))


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest checkpoint that was written to its end; whoever is killed in between leaves a part."""
    # The trainer writes this file last.
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


class Progress(TrainerCallback):
    """Prints a line for each log; ends the process at a step, as a power cut would.

    Args:
        kill_at: the optimizer step; None: none.
    """

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Print terms and norms."""
        logs = kwargs["logs"]
        shown = [f"{name} {float(logs[name]):.4f}" for name in SHOWN if name in logs]
        if shown:
            print(f"step {state.global_step}: {', '.join(shown)}", flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Kill the process where that was asked for."""
        if state.global_step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def export(student: Any, tokenizer: Any, folder: Path) -> None:
    """Write the student with its adapters merged, as any model of transformers, and its tokenizer.

    Args:
        student: the trained one of PEFT, which is without adapters afterwards.
        tokenizer: of the student.
        folder: where to.
    """
    student.merge_and_unload().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_and_learn(
    models: Models, spec: DSKDSpec, prompts: Sequence[Chat], projectors: Path, folder: Path, *, steps: int
) -> OnPolicyTrainer:
    """Train the student on what it writes itself; return the trainer.

    Args:
        models: the pair, with new adapters.
        spec: of the loss so far. Weights stay what its schedules have ended with.
        prompts: chats, of which the answers are not used.
        projectors: folder of the learned ones.
        folder: for the trainer, which saves nothing.
        steps: optimizer steps.
    """
    torch.manual_seed(1)
    loss_fn = models.loss(spec.at(spec.final_step))
    loss_fn.restore(projectors, accept=["spec.kd_rate"])
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=5e-4,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = OnPolicyTrainer(
        models,
        models.student,
        arguments,
        data_collator=lambda samples: {"prompts": [sample["messages"][:-1] for sample in samples]},
        train_dataset=prompts,
        loss_fn=loss_fn,
        teacher=models.teacher,
        projector_lr=1e-4,
        callbacks=[Progress()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


class OnPolicyTrainer(DSKDTrainer):
    """A trainer whose loader gives prompts, and which trains on what the student answers.

    Args:
        models: the pair.
        *args: as in `DSKDTrainer`.
        **kwargs: as in `DSKDTrainer`.
    """

    written: list[Chat]

    def __init__(self, models: Models, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tokenizer = models.student_tokenizer
        self.collate = models.collator(self.loss_fn, on_error="skip")  # an answer may be empty
        self.written = []

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Return batches of what was written to the prompts of an optimizer step, and their scored tokens."""
        loaded, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = [self.collate([self.answered(prompt) for prompt in batch["prompts"]]) for batch in loaded]
        return batches, self.count_scored_tokens(batches, device)

    @torch.no_grad()
    def answered(self, prompt: list[dict[str, str]], *, max_new_tokens: int = 24) -> Chat:
        """Return a chat that the student has answered."""
        student: Any = self.model
        inputs: Any = self.tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        student.eval()
        tokens = student.generate(**inputs.to(student.device), do_sample=True, max_new_tokens=max_new_tokens)
        student.train()
        written = tokens[0, inputs["input_ids"].shape[1] :]
        answer = self.tokenizer.decode(written, skip_special_tokens=True)
        # What was written up to the limit has no end, and the student is not to learn one there.
        finish_reason = "length" if len(written) == max_new_tokens else "stop"
        messages = [*prompt, {"role": "assistant", "content": answer}]
        self.written.append({"messages": messages, "finish_reason": finish_reason})
        return self.written[-1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Walk through all stages."""
    parser = argparse.ArgumentParser(description="Two models, chats, LoRA.")
    parser.add_argument("output", type=Path, help="folder for the spec, checkpoints and the student")
    parser.add_argument("--student", help="folder of a model; without both, a tiny pair is built")
    parser.add_argument("--teacher", help="folder of a model")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps")
    parser.add_argument("--kill-at", type=int, help="optimizer step at which to be killed")
    options = parser.parse_args(arguments)
    output, steps = options.output, options.steps
    _require_sense(parser, options)
    models, samples = with_adapters(load(options.student, options.teacher)), chats()
    training, evaluation = samples[:40], samples[40:48]

    begin = time.perf_counter()
    spec_file = output / "spec.json"
    if not spec_file.exists():
        spec_file.write_text(look(models, training, steps=steps).model_dump_json(indent=2))
        begin = _stated("look", begin)
    # A run that goes on has to go on with the spec that it began with.
    spec = DSKDSpec.model_validate_json(spec_file.read_text())
    trainer = train(models, spec, training, evaluation, output, steps=steps, kill_at=options.kill_at)
    begin = _stated("train", begin)
    export(trainer.model, models.student_tokenizer, output / "student")
    begin = _stated("export", begin)
    student = AutoModelForCausalLM.from_pretrained(output / "student", dtype=models.student.dtype)
    written = write_and_learn(
        with_adapters(replace(models, student=student), seed=1),
        spec,
        training,
        Path(trainer.state.best_model_checkpoint or output) / "projectors",
        output,
        steps=2,
    ).written
    for sample in written[:2]:
        print(f"{sample['finish_reason']}: {sample['messages'][-1]['content']!r}")
    _stated("write_and_learn", begin)


def _require_sense(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse options that cannot be meant, before anything is loaded, and make the folder."""
    if (options.student is None) != (options.teacher is None):
        parser.error("--student, --teacher: give both, or neither for a tiny pair")
    for name, steps in (("steps", options.steps), ("kill-at", options.kill_at)):
        if steps is not None and steps < 1:
            parser.error(f"--{name}: expected a positive number, got {steps}")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"{options.output}: expected a folder to write to: {error.strerror}")


def _stated(stage: str, begin: float) -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"[{stage}: {time.perf_counter() - begin:.0f} s, {peak:.2f} GiB at most so far]", flush=True)
    return time.perf_counter()


if __name__ == "__main__":
    main()
