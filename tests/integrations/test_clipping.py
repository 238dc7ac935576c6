"""Student and projectors are clipped apart, whoever runs the loop."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from dskd_components import ConfigurationError, DSKDSpec, InputError, clip_grad_norms, scored_tokens
from dskd_components.integrations import accelerate as with_accelerate
from dskd_components.integrations.student_with_projectors import StudentWithProjectors
from examples import accelerate_loop, lightning_loop, plain_loop, sft_trainer, trainer
from examples.tiny import Pair, tiny_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

LIMIT = 0.4
"""The norm to which all examples clip."""

LOOPS: dict[str, Callable[[Pair], list[float]]] = {
    "plain": plain_loop.train,
    "Trainer": trainer.train,
    "SFTTrainer": sft_trainer.train,
    "Accelerate": accelerate_loop.train,
    "Lightning": lightning_loop.train,
}


def pair_of(weight: float) -> Pair:
    """A pair in which the projectors' own cross entropy, which gives the student nothing, has some weight."""
    aligner = {"name": "cma", "std": "sample"}
    return tiny_pair(spec=DSKDSpec.preset("dskd-cma", aligner=aligner, weights={"t2s_ce": weight}))


def gradients(parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


@contextmanager
def recorded(pair: Pair) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """The gradients of student and projectors with which each step was made."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def record(*_: Any) -> None:
        found.append((gradients(pair.student.parameters()), gradients(pair.loss_fn.parameters())))

    handle = register_optimizer_step_post_hook(record)
    try:
        yield found
    finally:
        handle.remove()


@pytest.mark.parametrize("loop", LOOPS)
def test_large_gradients_of_projectors_leave_the_students_as_they_are(loop: str) -> None:
    first_steps = []
    for weight in (1.0, 1e4):
        pair = pair_of(weight)
        with recorded(pair) as steps:
            LOOPS[loop](pair)
        assert len(steps) == 4
        for part in (part for step in steps for part in step):
            assert part.norm() <= LIMIT * (1 + 1e-4)
        assert steps[0][0].norm() == pytest.approx(LIMIT, rel=1e-4)
        assert (steps[0][1].norm() == pytest.approx(LIMIT, rel=1e-4)) == (weight > 1)
        first_steps.append(steps[0])
    (student, projectors), (same, other) = first_steps
    torch.testing.assert_close(same, student, rtol=1e-5, atol=1e-8)
    assert not torch.allclose(other, projectors, rtol=1e-2)


class Logs:
    """Both norms of the first step, by the name that each route has for them."""

    @staticmethod
    def trainer(pair: Pair, folder: Path, limit: float | None) -> dict[str, float]:
        made = trainer.new_trainer(pair, folder, max_grad_norm=limit, max_steps=1)
        made.train()
        return {name: made.state.log_history[0][name] for name in ("grad_norm", "projector_grad_norm")}

    @staticmethod
    def lightning(pair: Pair, folder: Path, limit: float | None) -> dict[str, float]:
        from lightning.pytorch import Callback

        seen: dict[str, float] = {}

        class Look(Callback):
            def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
                seen.update({name: float(value) for name, value in trainer.callback_metrics.items()})

        lightning_loop.train(pair, max_steps=1, gradient_clip_val=limit, callbacks=[Look()])
        return {name: seen[f"train_{name}"] for name in ("grad_norm", "projector_grad_norm")}


@pytest.mark.parametrize("limit", [0.4, 0.0, None])
@pytest.mark.parametrize("route", ["trainer", "lightning"])
def test_both_norms_are_logged_as_they_were_before_clipping(route: str, limit: float | None, tmp_path: Path) -> None:
    pair = tiny_pair()
    window = [pair.collate(pair.samples[start : start + 2]) for start in (0, 2)]
    num_items = scored_tokens(window)
    pair.student.train()
    for batch in window:
        pair.loss_fn.run(pair.student, pair.teacher, batch, num_items_in_batch=num_items).loss.backward()
    expected = {
        "grad_norm": gradients(pair.student.parameters()).norm().item(),
        "projector_grad_norm": gradients(pair.loss_fn.parameters()).norm().item(),
    }
    pair = tiny_pair()
    with recorded(pair) as steps:
        logged = getattr(Logs, route)(pair, tmp_path, limit)
    assert logged == pytest.approx(expected, rel=1e-4)
    norms = {"grad_norm": steps[0][0].norm().item(), "projector_grad_norm": steps[0][1].norm().item()}
    assert norms == pytest.approx({name: min(norm, limit or norm) for name, norm in expected.items()}, rel=1e-3)


def test_a_loss_without_parameters_has_no_norm_to_log(tmp_path: Path) -> None:
    pair = tiny_pair(spec=DSKDSpec.preset("dskd-cma", aligner="span", spaces=["teacher"]))
    pair.loss_fn.projectors.clear()
    assert not list(pair.loss_fn.parameters())
    pair.student(input_ids=torch.tensor([[1, 2]]), labels=torch.tensor([[1, 2]])).loss.backward()
    assert clip_grad_norms(pair.student, pair.loss_fn, 1.0).keys() == {"grad_norm"}


@pytest.mark.parametrize("engine", ["DEEPSPEED", "FSDP"])
def test_engines_that_clip_by_themselves_are_named(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.utils import DistributedType

    pair = tiny_pair()
    accelerator = with_accelerate_of_type(monkeypatch, DistributedType(engine))
    model = StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher)
    with pytest.raises(ConfigurationError, match=rf"{engine} holds student and projectors as one"):
        with_accelerate.clip_grad_norms(accelerator, model, 1.0)
    with pytest.raises(InputError, match=r"expected a StudentWithProjectors, prepared or not, got GPT2LMHeadModel"):
        with_accelerate.clip_grad_norms(accelerator, pair.student, 1.0)


def with_accelerate_of_type(monkeypatch: pytest.MonkeyPatch, kind: Any) -> Any:
    accelerator = accelerate_loop.Accelerator()
    monkeypatch.setattr(type(accelerator), "distributed_type", property(lambda _: kind))
    monkeypatch.setattr(type(accelerator), "is_fsdp2", property(lambda _: False))
    return accelerator
