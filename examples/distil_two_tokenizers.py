"""Distil a language model into a smaller one that has another tokenizer, and compare with training without a teacher.

    python -m examples.distil_two_tokenizers --output output

`distil` is the part to copy: a plain PyTorch loop around `DSKDLoss`. What follows it is the experiment: a teacher
trained on the spot; a student that has read other text before; and, for each seed, copies of this student that go on
with few texts and differ in nothing but what they learn from, each at its best learning rate.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import torch
from rich.console import Console
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LinearLR

from dskd_components import DSKDLoss, DSKDSpec, clip_grad_norms
from examples.two_tokenizers.attention import learned_alignment
from examples.two_tokenizers.measuring import model_inputs
from examples.two_tokenizers.models import new_student, new_teacher
from examples.two_tokenizers.options import parse_options
from examples.two_tokenizers.preparation import prepare
from examples.two_tokenizers.progress import phases, with_bar
from examples.two_tokenizers.recording import STUDENT_ARMS, Results, record_run
from examples.two_tokenizers.report import closing_table, write_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.progress import Progress
    from torch import Tensor
    from transformers import PreTrainedModel

    from examples.two_tokenizers.batches import Batch, Side
    from examples.two_tokenizers.preparation import Preparation
    from examples.two_tokenizers.recording import Arm, Run
    from examples.two_tokenizers.settings import Settings


SPECS: Final[dict[Arm, DSKDSpec]] = {
    "dskd-cma": DSKDSpec.preset("dskd-cma"),
    "recommended": DSKDSpec(aligner="exact_match", spaces=["shared_tokens"], kd_rate=0.65),
}
"""What the distilled students learn from: the published method; and what was best on the dev texts, the tokens that
both vocabularies have, at positions that are matched by the text."""


def distil(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    loss_fn: DSKDLoss,
    batches: Sequence[Batch],
    *,
    lr: float,
    projector_lr: float,
) -> Iterator[dict[str, Tensor]]:
    """Train the student, and with it the loss's projectors and aligner; yield what is worth a log at each step.

    The loss comes from::

        spec = DSKDSpec.preset("dskd-cma")
        loss_fn = DSKDLoss.from_models(spec, student, teacher, student_tokenizer, teacher_tokenizer)
    """
    optimizer = AdamW([{"params": student.parameters(), "lr": lr}, *loss_fn.param_groups(lr=projector_lr)])
    schedule = LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=len(batches))
    student.train()
    teacher.eval()
    for batch in batches:
        out = loss_fn.run(student, teacher, batch)
        out.loss.backward()
        clip_grad_norms(student, loss_fn, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield {"loss": out.loss.detach(), **out.terms, **out.metrics}


def train_without_teacher(
    model: PreTrainedModel, batches: Sequence[Batch], side: Side, *, lr: float
) -> Iterator[dict[str, Tensor]]:
    """Train a model on the text alone, by cross entropy: the same loop with nothing of this library in it."""
    optimizer = AdamW([{"params": model.parameters(), "lr": lr}])
    schedule = LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=len(batches))
    model.train()
    for batch in batches:
        loss = model(**model_inputs(batch, side)).loss
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield {"loss": loss.detach(), "ce": loss.detach()}


def train_teacher(prepared: Preparation, settings: Settings, progress: Progress) -> tuple[PreTrainedModel, Run]:
    """Train the teacher on the text; it is a constant from then on."""
    seed = settings.teacher_seed
    teacher = new_teacher(
        prepared.teacher_tokenizer,
        width=settings.teacher_width,
        layers=settings.teacher_layers,
        max_length=settings.max_length,
        seed=seed,
    )
    batches = prepared.training_batches("teacher", settings.teacher_batch_size, settings.teacher_steps, seed)
    loop = with_bar(
        progress, "teacher", train_without_teacher(teacher, batches, "teacher", lr=settings.teacher_lr), len(batches)
    )
    run = record_run("teacher", seed, teacher, batches, loop, prepared.held_out, evaluations=1)
    return teacher.eval().requires_grad_(False), run


def untrained_student(prepared: Preparation, settings: Settings) -> PreTrainedModel:
    """Build the student."""
    return new_student(
        prepared.student_tokenizer,
        width=settings.student_width,
        layers=settings.student_layers,
        max_length=settings.max_length,
        seed=settings.teacher_seed,
    )


def pretrain_student(prepared: Preparation, settings: Settings, progress: Progress) -> tuple[PreTrainedModel, Run]:
    """Train the student on text of another kind; all arms and seeds start from it."""
    seed = settings.teacher_seed
    student = untrained_student(prepared, settings)
    batches = prepared.training_batches("pretraining", settings.teacher_batch_size, settings.pretraining_steps, seed)
    loop = train_without_teacher(student, batches, "student", lr=settings.pretraining_lr)
    loop = with_bar(progress, "student, before", loop, len(batches))
    return student, record_run("pretrained", seed, student, batches, loop, prepared.held_out, evaluations=1)


def start_student(
    spec: DSKDSpec | None,
    lr: float,
    seed: int,
    start: PreTrainedModel,
    teacher: PreTrainedModel,
    prepared: Preparation,
    settings: Settings,
) -> tuple[PreTrainedModel, DSKDLoss | None, list[Batch], Iterator[dict[str, Tensor]]]:
    """Copy a student, and return it with its loss, its batches, and the loop that trains it.

    Args:
        spec: what it learns from; None: from the text alone.
        lr: its first learning rate.
        seed: of its texts, their order, and the projectors.
        start: the student from which it starts; it stays as it is.
        teacher: the teacher.
        prepared: texts and tokenizers.
        settings: all other numbers.
    """
    student = untrained_student(prepared, settings)
    student.load_state_dict(start.state_dict())
    batches = prepared.training_batches("student", settings.batch_size, settings.steps, seed)
    if spec is None:
        return student, None, batches, train_without_teacher(student, batches, "student", lr=lr)
    torch.manual_seed(seed)
    tokenizers = prepared.student_tokenizer, prepared.teacher_tokenizer
    loss_fn = DSKDLoss.from_models(spec, student, teacher, *tokenizers)
    loop = distil(student, teacher, loss_fn, batches, lr=lr, projector_lr=settings.projector_lr)
    return student, loss_fn, batches, loop


def train_student(
    arm: Arm,
    seed: int,
    start: PreTrainedModel,
    teacher: PreTrainedModel,
    prepared: Preparation,
    settings: Settings,
    progress: Progress,
) -> tuple[PreTrainedModel, DSKDLoss | None, Run]:
    """Train one student, at the rate that is best for what it learns from, and measure it."""
    student, loss_fn, batches, loop = start_student(
        SPECS.get(arm), settings.student_lrs[arm], seed, start, teacher, prepared, settings
    )
    loop = with_bar(progress, f"{arm}, seed {seed}", loop, len(batches))
    run = record_run(arm, seed, student, batches, loop, prepared.held_out, settings.evaluations)
    return student, loss_fn, run


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment, print its table, write its files.

    Args:
        arguments: of the command line; None: those of this process.
    """
    started = time.perf_counter()
    output, settings = parse_options(arguments)
    torch.set_num_threads(settings.threads)
    console = Console()

    console.print("Reading Python's own documentation and training both tokenizers ...")
    prepared = prepare(settings)
    console.print(prepared.description())
    students: list[Run] = []
    with phases(console) as progress:
        teacher, teacher_run = train_teacher(prepared, settings, progress)
        start, start_run = pretrain_student(prepared, settings, progress)
        for seed in settings.seeds:
            for arm in STUDENT_ARMS:
                student, loss_fn, run = train_student(arm, seed, start, teacher, prepared, settings, progress)
                students.append(run)
                if arm == "dskd-cma" and loss_fn is not None:
                    attention = learned_alignment(loss_fn, student, teacher, prepared)

    results = Results(settings=settings, teacher=teacher_run, pretrained=start_run, students=students)
    files = write_files(results, attention, output)
    console.print(closing_table(results))
    console.print(f"Written: {', '.join(map(str, files))}")
    console.print(f"Took {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
