"""The Lightning module beyond its loss curve."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from dskd_components import ConfigurationError, DSKDLoss, DSKDSpec
from dskd_components.integrations import lightning as integration
from dskd_components.integrations.lightning import DSKDLightningModule
from examples import lightning_loop
from examples.tiny import Pair, tiny_pair

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    # Lightning uses what newer versions of torch deprecate.
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def module_of(pair: Pair) -> DSKDLightningModule:
    return DSKDLightningModule(pair.student, pair.teacher, pair.loss_fn, lr=1e-2, projector_lr=2e-2)


def loader(pair: Pair, size: int, samples: slice = slice(None)) -> DataLoader[Any]:
    return DataLoader(pair.samples[samples], batch_size=size, collate_fn=pair.collate)  # type: ignore[arg-type]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulated_micro_batches_train_as_one_batch_does(reduction: Any) -> None:
    curves = []
    with pytest.MonkeyPatch.context() as patch:
        for size, steps in ((8, 1), (2, 4), (1, 8)):
            pair = tiny_pair(
                spec=DSKDSpec.preset("dskd-cma", aligner={"name": "cma", "std": "sample"}, reduction=reduction)
            )
            patch.setattr(
                lightning_loop,
                "DataLoader",
                lambda samples, size=size, **options: DataLoader(samples, **(options | {"batch_size": size})),
            )
            curves.append(lightning_loop.train(pair, accumulate_grad_batches=steps, max_epochs=2))
    assert len(curves[0]) == 4
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=1e-5)


def test_a_last_window_that_is_not_full_is_divided_by_its_own_tokens() -> None:
    curves = []
    with pytest.MonkeyPatch.context() as patch:
        for size, steps in ((16, 1), (2, 100)):
            patch.setattr(
                lightning_loop,
                "DataLoader",
                lambda samples, size=size, **options: DataLoader(samples, **(options | {"batch_size": size})),
            )
            curves.append(lightning_loop.train(tiny_pair(), accumulate_grad_batches=steps, max_epochs=3))
    assert len(curves[0]) == 3
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)


def test_validation_is_a_mean_over_tokens_whatever_the_batches() -> None:
    pair = tiny_pair()
    with torch.no_grad():
        whole = pair.loss_fn.run(pair.student.eval(), pair.teacher, pair.collate(pair.samples[:7]))
    for size in (1, 3):
        (metrics,) = Trainer(**QUIET, enable_checkpointing=False).validate(
            module_of(pair), loader(pair, size, slice(7)), verbose=False
        )
        assert metrics["val_loss"] == pytest.approx(whole.loss.item(), rel=1e-5)
        assert metrics["val_ce"] == pytest.approx(whole.terms["ce"].item(), rel=1e-5)


def test_a_checkpoint_holds_student_and_projectors_and_resumes_without_the_teacher(tmp_path: Path) -> None:
    def fit(pair: Pair, epochs: int, checkpoint: Path | None = None) -> Trainer:
        trainer = Trainer(**QUIET, enable_checkpointing=False, max_epochs=epochs, accumulate_grad_batches=2)
        trainer.fit(module_of(pair), loader(pair, 2), ckpt_path=checkpoint)
        return trainer

    half, whole, resumed = tiny_pair(), tiny_pair(), tiny_pair(seed=3)
    resumed.teacher.load_state_dict(whole.teacher.state_dict())
    models = (resumed.student, resumed.teacher, resumed.student_tokenizer, resumed.teacher_tokenizer)
    resumed = replace(resumed, loss_fn=DSKDLoss.from_models(resumed.loss_fn.spec, *models))
    fit(half, 1).save_checkpoint(tmp_path / "half.ckpt")
    fit(whole, 2)
    fit(resumed, 2, tmp_path / "half.ckpt")
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)["state_dict"]
    expected = len(half.student.state_dict()) + len(half.loss_fn.state_dict())
    assert len(saved) == expected
    for ours, theirs in ((resumed.student, whole.student), (resumed.loss_fn, whole.loss_fn)):
        assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_deepspeed_is_refused() -> None:
    module = module_of(tiny_pair())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integration, "DeepSpeedStrategy", type(Trainer(**QUIET, enable_checkpointing=False).strategy))
        trainer = Trainer(**QUIET, enable_checkpointing=False, max_epochs=1)
        with pytest.raises(ConfigurationError, match=r"DeepSpeedStrategy.*DDP or FSDP"):
            trainer.fit(module, loader(tiny_pair(), 2))
