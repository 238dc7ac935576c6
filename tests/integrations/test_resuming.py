"""What a run is resumed from is of this loss and whole, or refused; what is meant is accepted, by every route."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from lightning.pytorch import Trainer as LightningTrainer
from torch.optim import AdamW
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from trl.trainer.sft_config import SFTConfig

from dskd_components import CheckpointError, DSKDLoss, DSKDSpec, load_checkpoint, save_checkpoint
from dskd_components.integrations.accelerate import register_projectors
from dskd_components.integrations.lightning import DSKDLightningModule
from dskd_components.integrations.student_with_projectors import StudentWithProjectors
from dskd_components.integrations.transformers import DSKDTrainer, DSKDTrainerMixin
from dskd_components.integrations.trl import DSKDSFTTrainer
from examples.tiny import Pair, tiny_pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning"),  # a default of TRL's
]


class OwnTrainer(DSKDTrainerMixin, Trainer):
    """What a user derives from another trainer."""


def of_trainer(kind: type[Any]) -> Route:
    def made(pair: Pair, folder: Path, steps: int, **options: Any) -> Any:
        arguments = (SFTConfig if kind is DSKDSFTTrainer else TrainingArguments)(
            output_dir=str(folder), max_steps=steps, save_steps=1, report_to="none", disable_tqdm=True,
            dataloader_pin_memory=False, bf16=False,
        )  # fmt: skip
        return kind(
            pair.student,
            arguments,
            data_collator=pair.collate,
            train_dataset=Dataset.from_list(pair.samples),
            processing_class=pair.student_tokenizer,
            loss_fn=pair.loss_fn,
            teacher=pair.teacher,
            **options,
        )

    def save(pair: Pair, folder: Path) -> Path:
        made(pair, folder, 1).train()
        return folder / "checkpoint-1"

    def resume(pair: Pair, path: Path, **options: Any) -> None:
        made(pair, path.parent, 1, **options).train(resume_from_checkpoint=str(path))

    return Route(save, resume)


def lightning_module(pair: Pair, **options: Any) -> DSKDLightningModule:
    return DSKDLightningModule(pair.student, pair.teacher, pair.loss_fn, lr=1e-2, **options)


def fit(module: DSKDLightningModule, pair: Pair, checkpoint: Path | None = None) -> LightningTrainer:
    trainer = LightningTrainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, max_steps=1,
    )  # fmt: skip
    loader: DataLoader[Any] = DataLoader(pair.samples, batch_size=4, collate_fn=pair.collate)  # type: ignore[arg-type]
    trainer.fit(module, loader, ckpt_path=checkpoint)
    return trainer


def save_with_lightning(pair: Pair, folder: Path) -> Path:
    fit(lightning_module(pair), pair).save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def resume_with_lightning(pair: Pair, path: Path, **options: Any) -> None:
    fit(lightning_module(pair, **options), pair, path)


def accelerated(pair: Pair, **options: Any) -> Accelerator:
    accelerator = Accelerator()
    model = StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher)
    model, _ = accelerator.prepare(model, AdamW(model.param_groups(lr=1e-2)))
    register_projectors(accelerator, model, **options)
    return accelerator


def save_with_accelerate(pair: Pair, folder: Path) -> Path:
    accelerated(pair).save_state(str(folder / "state"))
    return folder / "state"


def save_by_hand(pair: Pair, folder: Path) -> Path:
    save_checkpoint(folder / "training.pt", student=pair.student, loss_fn=pair.loss_fn, step=1)
    return folder / "training.pt"


@dataclass(frozen=True)
class Route:
    """How a user saves, and goes on from what was saved."""

    save: Callable[[Pair, Path], Path]
    resume: Callable[..., None]


ROUTES: dict[str, Route] = {
    "Trainer": of_trainer(DSKDTrainer),
    "SFTTrainer": of_trainer(DSKDSFTTrainer),
    "mixin": of_trainer(OwnTrainer),
    "Lightning": Route(save_with_lightning, resume_with_lightning),
    "Accelerate": Route(
        save_with_accelerate, lambda pair, path, **options: accelerated(pair, **options).load_state(str(path))
    ),
    "plain": Route(
        save_by_hand,
        lambda pair, path, **options: load_checkpoint(path, student=pair.student, loss_fn=pair.loss_fn, **options),
    ),
}

CMA = {"name": "cma", "std": "sample"}
BEFORE = DSKDSpec.preset("dskd-cma", aligner=CMA)
RAMP = {"name": "linear", "start": 0.2, "end": 0.8, "steps": 10}
CHANGES: dict[str, dict[str, Any]] = {
    "another rate": {"kd_rate": 0.75},
    "a schedule": {"kd_rate": RAMP, "temperature": 2.0},
}


def other_pair(pair: Pair, spec: DSKDSpec) -> Pair:
    """Another student and other projectors for the same teacher."""
    other = tiny_pair(seed=3, spec=spec)
    other.teacher.load_state_dict(pair.teacher.state_dict())
    tokenizers = (other.student_tokenizer, other.teacher_tokenizer)
    return replace(other, loss_fn=DSKDLoss.from_models(spec, other.student, other.teacher, *tokenizers))


def parameters_of(pair: Pair) -> list[torch.Tensor]:
    return [p.detach().clone() for p in (*pair.student.parameters(), *pair.loss_fn.parameters())]


@pytest.mark.parametrize("route", ROUTES)
def test_another_spec_is_refused_and_taken_if_it_is_meant(route: str, tmp_path: Path) -> None:
    saved = tiny_pair(spec=BEFORE)
    path = ROUTES[route].save(saved, tmp_path)
    expected = parameters_of(saved)
    for changes in CHANGES.values():
        spec = BEFORE.replace(**changes)
        other = other_pair(saved, spec)
        with pytest.raises(CheckpointError, match=r"spec\.kd_rate(.|\n)*accept=\[.*'spec\.kd_rate.*\]") as raised:
            ROUTES[route].resume(other, path)
        # What the message says can be given as it is.
        accept = eval(str(raised.value).rpartition("accept=")[2].rstrip("."))
        with pytest.raises(CheckpointError, match=r"spec\.kd_rate"):
            ROUTES[route].resume(other, path, accept=["spec.weights"])
        ROUTES[route].resume(other, path, accept=accept)
        assert all(map(torch.equal, parameters_of(other), expected))


class Killed(BaseException):
    """Nothing that a library does after it matters: what is on the disk is looked at."""


def test_a_student_of_other_shapes_is_refused_by_trainers(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, "max_steps": 1}

    def trainer(pair: Pair) -> DSKDTrainer:
        return DSKDTrainer(
            pair.student,
            TrainingArguments(**arguments, save_steps=1, disable_tqdm=True),
            data_collator=pair.collate,
            train_dataset=pair.samples,
            loss_fn=DSKDLoss.from_models(pair.loss_fn.spec, pair.student, pair.teacher),
            teacher=pair.teacher,
        )

    trainer(tiny_pair()).train()
    other = tiny_pair()
    student: Any = other.student
    student.resize_token_embeddings(student.config.vocab_size + 8)
    with pytest.raises(CheckpointError, match=r"checkpoint-1: the student that was saved has other shapes .*408"):
        trainer(other).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def die(*_: Any, **__: Any) -> None:
    raise Killed


def counting_down(save: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """The function, which is killed at one of its calls."""
    left = [calls]

    def counted(*args: Any, **options: Any) -> Any:
        left[0] -= 1
        return die() if left[0] < 0 else save(*args, **options)

    return counted


TRAINER = "dskd_components.integrations.transformers"
# By route, where a save into a folder of an earlier run is killed: what is called there, and at which of its calls.
KILLS = [
    ("Trainer", f"{TRAINER}.save_projectors", 0),
    ("Trainer", f"{TRAINER}.DSKDTrainer.save_model", 0),
    ("Trainer", f"{TRAINER}.DSKDTrainer._save_optimizer_and_scheduler", 0),
    ("Trainer", f"{TRAINER}.DSKDTrainer._save_rng_state", 0),
    ("Trainer", "transformers.trainer.TrainerState.save_to_json", 0),
    *(("Accelerate", "accelerate.checkpointing.save", call) for call in range(3)),
    ("plain", "torch.save", 0),
]


@pytest.mark.parametrize(("route", "where", "call"), KILLS)
def test_a_save_that_was_cut_short_is_never_taken_for_one_state(
    route: str, where: str, call: int, tmp_path: Path
) -> None:
    earlier = tiny_pair(spec=BEFORE)
    path = ROUTES[route].save(earlier, tmp_path)
    later = other_pair(earlier, BEFORE)
    owner, _, name = where.rpartition(".")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, counting_down(getattr(resolve_name(owner), name), call))
        with pytest.raises(Killed):
            ROUTES[route].save(later, tmp_path)
    found = tiny_pair(spec=BEFORE)
    if where in (f"{TRAINER}.save_projectors", "torch.save"):  # nothing of the earlier one is touched yet
        ROUTES[route].resume(found, path)
        assert all(map(torch.equal, parameters_of(found), parameters_of(earlier)))
    else:
        with pytest.raises(CheckpointError, match=r"earlier"):
            ROUTES[route].resume(found, path)


def test_a_first_save_that_was_cut_short_is_named(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("accelerate.checkpointing.save", die)
        with pytest.raises(Killed):
            ROUTES["Accelerate"].save(tiny_pair(spec=BEFORE), tmp_path)
    with pytest.raises(CheckpointError, match=r"saving was cut short.*folder of its own"):
        ROUTES["Accelerate"].resume(tiny_pair(spec=BEFORE), tmp_path / "state")


def test_states_of_others_are_refused(tmp_path: Path) -> None:
    pair = tiny_pair(spec=BEFORE)
    accelerator = Accelerator()
    accelerator.prepare(StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher))
    accelerator.save_state(str(tmp_path / "state"))
    with pytest.raises(CheckpointError, match=r"dskd_components\.json: .*register_projectors"):
        accelerated(pair).load_state(str(tmp_path / "state"))
    module = lightning_module(pair)
    with pytest.raises(CheckpointError, match=r"no 'dskd_components'.*on_save_checkpoint"):
        module.on_load_checkpoint({"state_dict": {}})
