"""The optimizer of projectors beside an engine: its rates, the scale of float16, its file; what is refused there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from dskd_components import ConfigurationError, DSKDWarning
from dskd_components.integrations.projector_optimizer import ProjectorOptimizer
from dskd_components.integrations.projectors import save_projectors
from dskd_components.integrations.teacher_placement import place_teacher
from dskd_components.integrations.trainer_checks import require_plain_set_up, require_whole_projectors
from examples.tiny import tiny_pair
from examples.trainer import new_trainer

if TYPE_CHECKING:
    from pathlib import Path


def apart(trainer: Any, loss_fn: nn.Module, lr: float = 2e-2) -> ProjectorOptimizer:
    made = ProjectorOptimizer.of(trainer, loss_fn, lr=lr)  # type: ignore[arg-type]
    assert made is not None
    return made


def test_rates_follow_any_schedule_of_the_student(tmp_path: Path) -> None:
    trainer = new_trainer(tiny_pair(), tmp_path, use_cpu=True)
    projectors = apart(trainer, trainer.loss_fn)
    student = torch.optim.SGD(trainer.model.parameters(), lr=1e-2)
    for schedule in (
        torch.optim.lr_scheduler.LambdaLR(student, lambda step: 1 / (1 + step)),
        torch.optim.lr_scheduler.CosineAnnealingLR(student, T_max=7),
    ):
        for _ in range(5):
            projectors.follow(student, full=1e-2)
            for group in projectors.optimizer.param_groups:
                assert group["lr"] == pytest.approx(2 * student.param_groups[0]["lr"])
            student.step()
            schedule.step()
    student.param_groups[0].pop("initial_lr")  # as schedulers of DeepSpeed leave it
    student.param_groups[0]["lr"] = 2.5e-3
    projectors.follow(student, full=1e-2)
    assert projectors.optimizer.param_groups[0]["lr"] == pytest.approx(5e-3)


@pytest.mark.parametrize(("optim", "kind"), [("adafactor", "Adafactor"), ("sgd", "SGD"), ("adamw_torch", "AdamW")])
def test_it_is_of_the_trainers_kind_and_decays_what_the_trainer_decays(tmp_path: Path, optim: str, kind: str) -> None:
    trainer = new_trainer(tiny_pair(), tmp_path, use_cpu=True, optim=optim, weight_decay=0.1)
    optimizer = apart(trainer, trainer.loss_fn).optimizer
    assert type(optimizer).__name__ == kind
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    own = {name: decays[id(parameter)] for name, parameter in trainer.loss_fn.named_parameters()}
    assert {name: decay == 0.1 for name, decay in own.items()} == {name: "bias" not in name for name in own}


def test_an_optimizer_of_one_models_layers_is_left_to_the_student(tmp_path: Path) -> None:
    trainer = new_trainer(tiny_pair(), tmp_path, use_cpu=True)
    trainer.optimizer_cls_and_kwargs = (torch.optim.SGD, {"params": [], "lr": 1.0})
    assert type(apart(trainer, trainer.loss_fn).optimizer) is torch.optim.AdamW


def test_a_scale_of_the_loss_is_taken_out_and_an_overflow_is_no_step() -> None:
    layer = nn.Linear(3, 1)
    before = layer.weight.detach().clone()
    projectors = ProjectorOptimizer(torch.optim.SGD(layer.parameters(), lr=1.0), scaled=True)
    layer(torch.ones(1, 3)).sum().backward()
    assert layer.weight.grad is not None
    plain = layer.weight.grad.clone()
    for scale, times in ((2.0**20, 2), (float("inf"), 1)):
        layer.zero_grad()
        for _ in range(times):  # micro-batches of one window
            loss = projectors.noting_scale(layer(torch.ones(1, 3)).sum())
            (loss * scale).backward()
        projectors.unscale()
        if times == 2:
            torch.testing.assert_close(layer.weight.grad, 2 * plain)
            projectors.step(skipped=True)  # the engine's own overflow
        else:
            projectors.step()
        assert torch.equal(layer.weight, before)
    layer.zero_grad()
    projectors.noting_scale(layer(torch.ones(1, 3)).sum()).backward()
    projectors.unscale()
    projectors.step()
    torch.testing.assert_close(layer.weight.detach(), before - plain)


def test_its_state_is_saved_beside_the_projectors(tmp_path: Path) -> None:
    trainer = new_trainer(tiny_pair(), tmp_path, use_cpu=True)
    first, second = apart(trainer, trainer.loss_fn), apart(trainer, trainer.loss_fn, lr=1.0)
    for parameter in trainer.loss_fn.parameters():
        parameter.grad = torch.ones_like(parameter)
    first.step()
    with pytest.warns(DSKDWarning, match=r"optimizer\.pt: not there.*begins anew"):
        second.load(tmp_path)
    save_projectors(trainer.loss_fn, tmp_path)
    first.save(tmp_path)
    second.load(tmp_path)
    assert second.optimizer.param_groups[0]["initial_lr"] == 2e-2
    torch.testing.assert_close(second.optimizer.state_dict()["state"], first.optimizer.state_dict()["state"])


def test_projectors_in_parts_are_refused() -> None:
    layer: Any = nn.Linear(2, 2)
    layer.weight.ds_id = 0  # as ZeRO-3 marks what it has cut up
    with pytest.raises(ConfigurationError, match=r"'weight' of the loss is in parts.*ZeRO-3 engine.*outside of zero"):
        require_whole_projectors(layer)


def set_up(trainer: Any, **changed: Any) -> Any:
    """A trainer as it would be under an engine that is not here."""
    fields = ("args", "model", "accelerator", "optimizer", "lr_scheduler", "compute_loss_func", "get_tp_size")
    same = {name: getattr(trainer, name) for name in (*fields, "get_cp_size", "get_sp_size")}
    return SimpleNamespace(**same | {"is_fsdp_enabled": False, "is_deepspeed_enabled": False} | changed)


def accelerator(**plugins: Any) -> Any:
    return SimpleNamespace(num_processes=1, state=SimpleNamespace(**plugins))


def test_engines_that_do_not_go_with_the_loss_are_named(tmp_path: Path) -> None:
    trainer = new_trainer(tiny_pair(), tmp_path, use_cpu=True)
    older = accelerator(fsdp_plugin=SimpleNamespace(fsdp_version=1))
    with pytest.raises(ConfigurationError, match=r"FSDP 1 flattens.*fsdp_version: 2"):
        require_plain_set_up(set_up(trainer, is_fsdp_enabled=True, accelerator=older))
    unclipped = SimpleNamespace(hf_ds_config=SimpleNamespace(get_value={}.get))
    deepspeed = {"is_deepspeed_enabled": True, "accelerator": accelerator(deepspeed_plugin=unclipped)}
    with pytest.raises(ConfigurationError, match=r"optimizers: under DeepSpeed.*create_optimizer"):
        require_plain_set_up(set_up(trainer, optimizer=torch.optim.SGD(trainer.model.parameters()), **deepspeed))
    with pytest.warns(DSKDWarning, match=r"no gradient_clipping.*max_grad_norm=0\.4.*\"auto\""):
        require_plain_set_up(set_up(trainer, **deepspeed))


def test_a_quantised_teacher_is_not_moved(tmp_path: Path) -> None:
    pair = tiny_pair()
    trainer = new_trainer(pair, tmp_path, use_cpu=True)
    pair.teacher.quantization_method = "bitsandbytes"  # type: ignore[assignment]
    assert place_teacher(trainer, pair.teacher, shard=None) is pair.teacher
    elsewhere = set_up(trainer, args=SimpleNamespace(device=torch.device("meta")))
    with pytest.raises(ConfigurationError, match=r"quantised and on cpu.*trains on meta.*device_map"):
        place_teacher(elsewhere, pair.teacher, shard=None)
