"""Copies of what holds a teacher: parameters are their own, the teacher is the same."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from dskd_components.integrations.lightning import DSKDLightningModule
from dskd_components.integrations.student_with_projectors import StudentWithProjectors
from examples.tiny import Pair, tiny_pair

if TYPE_CHECKING:
    from collections.abc import Callable


class Guarded(StudentWithProjectors):
    """What a user derives from it."""


def lightning_module(pair: Pair) -> nn.Module:
    return DSKDLightningModule(pair.student, pair.teacher, pair.loss_fn)


HOLDERS: dict[str, Callable[[Pair], nn.Module]] = {
    "wrapper": lambda pair: StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher),
    "derived": lambda pair: Guarded(pair.student, pair.loss_fn, pair.teacher),
    "nested": lambda pair: nn.ModuleList([StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher)]),
    "lightning": lightning_module,
}
COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "copy of a copy": lambda module: copy.deepcopy(copy.deepcopy(module)),
    "average": lambda module: AveragedModel(module, use_buffers=True).module,
    "ema": lambda module: AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9)).module,
}


def wrapper_in(module: Any) -> StudentWithProjectors:
    found = next(part for part in module.modules() if isinstance(part, StudentWithProjectors))
    assert isinstance(found, StudentWithProjectors)
    return found


@pytest.fixture(scope="module")
def pair() -> Pair:
    return tiny_pair()


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("holder", HOLDERS)
def test_a_copy_shares_the_teacher_and_nothing_else(pair: Pair, holder: str, how: str) -> None:
    module = HOLDERS[holder](pair)
    copied = COPIES[how](module)
    ours, theirs = wrapper_in(module), wrapper_in(copied)
    assert type(theirs) is type(ours)
    assert theirs.teacher is pair.teacher
    owned = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    assert not any(id(tensor) in owned for tensor in (*copied.parameters(), *copied.buffers()))
    assert copied.state_dict().keys() == module.state_dict().keys()
    assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in copied.state_dict().items())


def test_a_copy_computes_the_same_and_trains_apart(pair: Pair) -> None:
    module = HOLDERS["wrapper"](pair)
    copied = copy.deepcopy(module)
    batch = pair.collate(pair.samples[:2])
    assert torch.equal(copied(batch).loss, module(batch).loss)
    copied(batch).loss.backward()
    assert all(parameter.grad is not None for parameter in copied.parameters())
    assert all(parameter.grad is None for parameter in (*module.parameters(), *pair.teacher.parameters()))


def test_averages_follow_training(pair: Pair) -> None:
    pair = copy.deepcopy(pair)
    module = HOLDERS["wrapper"](pair)
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    teacher = copy.deepcopy(pair.teacher.state_dict())
    average.update_parameters(module)  # the first takes the parameters as they are
    before = [parameter.detach().clone() for parameter in module.parameters()]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    average.update_parameters(module)
    for averaged, parameter in zip(average.module.parameters(), before, strict=True):
        torch.testing.assert_close(averaged, parameter + 0.5)
    assert all(torch.equal(tensor, teacher[name]) for name, tensor in pair.teacher.state_dict().items())
    assert average(pair.collate(pair.samples[:2])).loss.isfinite()


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning uses what newer versions of torch deprecate
def test_averages_in_lightning_share_the_teacher(pair: Pair) -> None:
    averaging = EMAWeightAveraging(decay=0.5)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(accelerator="cpu", max_steps=2, callbacks=[averaging], **quiet)  # type: ignore[arg-type]
    loader: Any = DataLoader(pair.samples, batch_size=2, collate_fn=pair.collate)  # type: ignore[arg-type]
    trainer.fit(HOLDERS["lightning"](copy.deepcopy(pair)), loader)  # type: ignore[arg-type]
    assert averaging._average_model is not None
    assert wrapper_in(averaging._average_model).teacher is wrapper_in(trainer.lightning_module).teacher
