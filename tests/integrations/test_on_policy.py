"""Batches that are made of prompts on the way are counted as they are trained on, whoever runs the loop."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
import torch
from accelerate import Accelerator
from lightning.pytorch import Trainer as LightningTrainer
from torch.optim import AdamW
from torch.utils.data import DataLoader

from dskd_components import ConfigurationError, DSKDWarning, InputError
from dskd_components.integrations.accelerate import clip_grad_norms, micro_batches
from dskd_components.integrations.lightning import DSKDLightningModule
from dskd_components.integrations.student_with_projectors import StudentWithProjectors
from dskd_components.integrations.transformers import DSKDTrainer
from examples import on_policy, plain_loop
from examples.lightning_loop import Losses
from examples.on_policy import OnPolicyTrainer, prompts_of, written_batch
from examples.tiny import Pair, tiny_pair
from examples.trainer import new_trainer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def recited(monkeypatch: pytest.MonkeyPatch) -> Callable[[Pair], Pair]:
    """Makes of a pair one whose student writes what the data has, so that on-policy is off-policy."""

    def recite(pair: Pair) -> Pair:
        recited = iter(pair.samples)

        def respond(_: Pair, prompts: list[str]) -> list[dict[str, str]]:
            return list(islice(recited, len(prompts)))

        monkeypatch.setattr(on_policy, "respond", respond)
        return pair

    return recite


def loader_of(pair: Pair) -> Any:
    return DataLoader(pair.samples, batch_size=2, collate_fn=prompts_of)  # type: ignore[arg-type]


def with_accelerate(pair: Pair) -> list[float]:
    accelerator = Accelerator()
    model = StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher)
    optimizer = AdamW(model.param_groups(lr=1e-2, projector_lr=2e-2))
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader_of(pair))
    losses, batches = [], iter(loader)
    model.train()
    while loaded := list(islice(batches, 2)):
        window = [written_batch(pair, batch["prompts"]) for batch in loaded]
        loss = 0.0
        for batch, num_items in micro_batches(accelerator, model, window):
            out = model(batch, num_items_in_batch=num_items)
            accelerator.backward(out.loss)
            loss += out.loss.item()
        clip_grad_norms(accelerator, model, 0.4)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
    return losses


def with_lightning(pair: Pair) -> list[float]:
    class OnPolicy(DSKDLightningModule):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step(written_batch(pair, batch["prompts"]), batch_idx)

    losses = Losses()
    trainer = LightningTrainer(
        accelerator="cpu", devices=1, max_epochs=1, accumulate_grad_batches=2, gradient_clip_val=0.4, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[losses],
    )  # fmt: skip
    trainer.fit(OnPolicy(pair.student, pair.teacher, pair.loss_fn, lr=1e-2, projector_lr=2e-2), loader_of(pair))
    return losses.values


LOOPS: dict[str, Callable[[Pair], list[float]]] = {
    "plain": on_policy.train,
    "Trainer": on_policy.train_with_trainer,
    "Accelerate": with_accelerate,
    "Lightning": with_lightning,
}


@pytest.fixture(scope="module")
def plain_curve() -> list[float]:
    return plain_loop.train(tiny_pair())


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("loop", LOOPS)
def test_a_student_that_writes_the_data_trains_as_on_the_data(
    loop: str, recited: Callable[[Pair], Pair], plain_curve: list[float]
) -> None:
    assert LOOPS[loop](recited(tiny_pair())) == pytest.approx(plain_curve, rel=1e-5)


@pytest.mark.parametrize(("size", "steps"), [(4, 1), (1, 4)])
def test_however_prompts_are_cut(
    size: int, steps: int, recited: Callable[[Pair], Pair], plain_curve: list[float]
) -> None:
    options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
    curve = on_policy.train_with_trainer(recited(tiny_pair()), **options)
    assert curve == pytest.approx(plain_curve, rel=1e-5)


def test_what_the_student_itself_writes_is_trained_on() -> None:
    curves = []
    for loop in (on_policy.train, on_policy.train_with_trainer):
        torch.manual_seed(0)
        curves.append(loop(tiny_pair()))  # type: ignore[operator]
    assert len(curves[0]) == len(curves[1]) == 4
    assert all(0 < loss < 10 for curve in curves for loss in curve)


def test_batches_that_nobody_has_counted_are_refused(tmp_path: Path) -> None:
    class Forgetful(OnPolicyTrainer):
        def get_batch_samples(self, *args: Any) -> Any:
            return super().get_batch_samples(*args)[0], None

    def train(kind: type[OnPolicyTrainer], **options: Any) -> None:
        pair = tiny_pair()
        made = new_trainer(pair, tmp_path, max_steps=1, **options)
        own = kind(pair, pair.student, made.args, data_collator=prompts_of, train_dataset=pair.samples,
                   loss_fn=pair.loss_fn, teacher=pair.teacher)  # fmt: skip
        own.train()

    with pytest.raises(ConfigurationError, match=r"get_batch_samples returned None.*count_scored_tokens\(batches"):
        train(Forgetful)
    train(Forgetful, gradient_accumulation_steps=1)  # one batch, one process: its own tokens are all there are


def test_a_count_of_what_was_loaded_is_noticed(tmp_path: Path) -> None:
    class Stale(DSKDTrainer):
        def get_batch_samples(self, *args: Any) -> Any:
            batches, count = super().get_batch_samples(*args)
            silent = {**batches[0], "student_labels": torch.full_like(batches[0]["student_labels"], -100)}
            return [silent, *batches[1:]], count

    pair = tiny_pair()
    made = new_trainer(pair, tmp_path, max_steps=1)
    own = Stale(pair.student, made.args, data_collator=pair.collate, train_dataset=pair.samples, loss_fn=pair.loss_fn,
                teacher=pair.teacher)  # fmt: skip
    with pytest.warns(DSKDWarning, match=r"count of other batches: 0\.\d+ tokens were trained on.*count_scored_tokens"):
        own.train()


@pytest.mark.parametrize("collate", [prompts_of, list])
def test_prompts_that_nobody_has_replaced_are_named(collate: Any, tmp_path: Path) -> None:
    trainer = new_trainer(tiny_pair(), tmp_path)
    trainer.data_collator = collate
    with pytest.raises(InputError, match=r"get_batch_samples"):
        trainer.train()
