"""Where weights follow a schedule, evaluations are by those that it ends with, whoever runs the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from datasets import Dataset
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, TrainingArguments
from trl.trainer.sft_config import SFTConfig

from dskd_components import DSKDSpec, DSKDWarning
from dskd_components.integrations.lightning import DSKDLightningModule
from dskd_components.integrations.transformers import DSKDTrainer
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

CMA = {"name": "cma", "std": "sample"}
RISING = {"name": "linear", "start": 0.0, "end": 0.9, "steps": 3}
STAIRS = {"name": "piecewise", "points": [(0, 0.1), (2, 0.8)], "interpolation": "stairs"}
# Every field that may follow a schedule.
SPECS = {
    "kd_rate": DSKDSpec.preset("dskd-cma", aligner=CMA, kd_rate=RISING),
    "weights": DSKDSpec.preset("dskd-cma", aligner=CMA, weights={"t2s_ce": RISING, "s2t_kd": RISING}),
    "stairs": DSKDSpec.preset("dskd-cma", aligner=CMA, kd_rate=STAIRS),
}
STEPS = 3


def with_trainer(kind: type[Any], pair: Pair, folder: Path, **options: Any) -> tuple[list[float], Any]:
    arguments = (SFTConfig if kind is DSKDSFTTrainer else TrainingArguments)(
        output_dir=str(folder), max_steps=STEPS, save_steps=1, eval_strategy="steps", eval_steps=1, learning_rate=0.0,
        load_best_model_at_end=True, report_to="none", disable_tqdm=True, dataloader_pin_memory=False, bf16=False,
        **options,
    )  # fmt: skip
    trainer = kind(
        pair.student,
        arguments,
        data_collator=pair.collate,
        train_dataset=Dataset.from_list(pair.samples),
        eval_dataset=Dataset.from_list(pair.samples[:4]),
        processing_class=pair.student_tokenizer,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=1)],
        loss_fn=pair.loss_fn,
        teacher=pair.teacher,
    )
    trainer.train()
    return [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry], trainer


def with_lightning(pair: Pair, folder: Path, *callbacks: Any, **options: Any) -> tuple[list[float], Any]:
    class Watched(DSKDLightningModule):
        losses: list[float]

        def on_validation_end(self) -> None:
            if not self.trainer.sanity_checking:
                self.losses.append(float(self.trainer.callback_metrics["val_loss"]))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.param_groups())
            monitor = options.get("plateau")
            plateau = {"scheduler": ReduceLROnPlateau(optimizer), "monitor": monitor}
            return {"optimizer": optimizer, "lr_scheduler": plateau} if monitor else optimizer

    module = Watched(pair.student, pair.teacher, pair.loss_fn, lr=0.0)
    module.losses = []
    trainer = LightningTrainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        max_steps=STEPS, val_check_interval=1, callbacks=[*callbacks], default_root_dir=folder,
    )  # fmt: skip

    def loader(samples: Any) -> DataLoader[Any]:
        return DataLoader(samples, batch_size=4, collate_fn=pair.collate)

    trainer.fit(module, loader(pair.samples), loader(pair.samples[:4]))
    return module.losses, trainer


ROUTES: dict[str, Callable[[Pair, Path], tuple[list[float], Any]]] = {
    "Trainer": lambda pair, folder: with_trainer(DSKDTrainer, pair, folder),
    "SFTTrainer": lambda pair, folder: with_trainer(DSKDSFTTrainer, pair, folder),
    "Lightning": lambda pair, folder: with_lightning(pair, folder, EarlyStopping("val_loss", patience=1)),
}


@pytest.mark.filterwarnings("ignore::dskd_components.errors.DSKDWarning")
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("route", ROUTES)
def test_an_unchanged_student_has_one_evaluation_at_every_step(route: str, spec: str, tmp_path: Path) -> None:
    """With the rate of the step it would rise with the weights, and the first checkpoint be the best one."""
    pair = tiny_pair(spec=SPECS[spec])
    losses, _ = ROUTES[route](pair, tmp_path)
    with torch.no_grad():
        batch = pair.collate(pair.samples[:4])
        last = SPECS[spec].final_step
        expected = [
            pair.loss_fn.run(pair.student.eval(), pair.teacher, batch, step=step).loss.item() for step in (0, last)
        ]
    assert expected[0] != pytest.approx(expected[1], rel=1e-3)
    assert len(losses) > 1
    assert losses == pytest.approx([expected[1]] * len(losses), rel=1e-5)


def test_training_itself_follows_the_schedule(tmp_path: Path) -> None:
    pair = tiny_pair(spec=SPECS["kd_rate"])
    with pytest.warns(DSKDWarning, match="metric_for_best_model"):
        _, trainer = with_trainer(DSKDTrainer, pair, tmp_path, logging_steps=1)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for step, entry in enumerate(logged):
        rate = SPECS["kd_rate"].at(step).kd_rate
        expected = (1 - rate) * entry["ce"] + rate * (entry["t2s_ce"] + entry["t2s_kd"] + entry["s2t_kd"])
        assert entry["loss"] == pytest.approx(expected, rel=1e-4)


FINAL = r"weights follow schedules\. All evaluations are by the weights that these end with \(kd_rate 0\.9\)"


def test_who_chooses_by_a_loss_is_told(tmp_path: Path) -> None:
    spec = SPECS["kd_rate"]
    with pytest.warns(DSKDWarning, match=rf"metric_for_best_model='loss' compares eval_loss, and {FINAL}.*eval_ce"):
        with_trainer(DSKDTrainer, tiny_pair(spec=spec), tmp_path)
    checkpoint = ModelCheckpoint(tmp_path / "by val", monitor="val_loss")
    with pytest.warns(DSKDWarning, match=rf"ModelCheckpoint compares val_loss, and {FINAL}.*val_ce"):
        with_lightning(tiny_pair(spec=spec), tmp_path, checkpoint)
    checkpoint = ModelCheckpoint(tmp_path / "by train", monitor="train_loss")
    with pytest.warns(DSKDWarning, match=r"ModelCheckpoint compares train_loss with earlier ones, but kd_rate follow"):
        with_lightning(tiny_pair(spec=spec), tmp_path, checkpoint)
    with pytest.warns(DSKDWarning, match=r"ReduceLROnPlateau compares train_loss .*val_loss or train_ce"):
        with_lightning(tiny_pair(spec=spec), tmp_path, plateau="train_loss")


def test_who_does_not_is_not(tmp_path: Path) -> None:
    """Any warning is an error here."""
    pair = tiny_pair(spec=SPECS["kd_rate"])
    _, trainer = with_trainer(DSKDTrainer, pair, tmp_path, metric_for_best_model="eval_ce")
    assert trainer.state.best_metric == pytest.approx(trainer.evaluate()["eval_ce"], rel=1e-5)
    with_lightning(tiny_pair(spec=SPECS["kd_rate"]), tmp_path, EarlyStopping("val_ce"))
    with_trainer(DSKDTrainer, tiny_pair(spec=DSKDSpec.preset("dskd-cma", aligner=CMA)), tmp_path / "constant")
