"""Trainer, Accelerate and Lightning on two processes give what one process gives."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from dskd_components import ConfigurationError
from dskd_components.integrations.accelerate import micro_batches
from dskd_components.integrations.student_with_projectors import StudentWithProjectors
from examples import accelerate_loop, lightning_loop, plain_loop
from examples.tiny import Pair, tiny_pair
from examples.trainer import new_trainer
from tests.helpers.process_groups import run_on_ranks

if TYPE_CHECKING:
    from pathlib import Path

# Half of the samples of a step on each rank, one at a time.
TRAINER = {"per_device_train_batch_size": 1, "use_cpu": True, "ddp_backend": "gloo"}


def pair_of_rank(rank: int) -> Pair:
    """Projectors differ between ranks at first: something must make them one."""
    pair = tiny_pair()
    with torch.no_grad():
        for parameter in pair.loss_fn.parameters():
            parameter.mul_(1 + rank)
    return pair


def trainers(rank: int, folder: str) -> dict[str, Any]:
    pair = pair_of_rank(rank)
    trainer = new_trainer(pair, f"{folder}/trainer", save_strategy="steps", save_steps=2, **TRAINER)
    trainer.train()
    results = {"Trainer": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]}
    results["Trainer ce"] = [entry["ce"] for entry in trainer.state.log_history if "loss" in entry]
    results["projectors"] = {name: p.detach().clone() for name, p in pair.loss_fn.named_parameters()}
    # Five samples on two ranks: one rank has fewer of its own.
    results["evaluation"] = trainer.evaluate(pair.samples[:5])
    resumed = new_trainer(pair_of_rank(rank), f"{folder}/resumed", **TRAINER)
    resumed.train(resume_from_checkpoint=f"{folder}/trainer/checkpoint-2")
    results["resumed"] = [entry["loss"] for entry in resumed.state.log_history if "loss" in entry]
    own = new_trainer(tiny_pair(), f"{folder}/own", average_tokens_across_devices=False, **TRAINER)
    own.train()
    results["own"] = [entry["loss"] for entry in own.state.log_history if "loss" in entry]
    return results


def accelerated(rank: int) -> dict[str, Any]:
    pair = pair_of_rank(rank)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerate_loop, "DataLoader", one_at_a_time)
        curve = accelerate_loop.train(pair)
    accelerator = accelerate_loop.Accelerator()
    unwrapped = StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher)
    with pytest.raises(ConfigurationError, match=r"not prepared.*2 processes") as refused:
        next(micro_batches(accelerator, unwrapped, [pair.collate(pair.samples[:1])]))
    return {"Accelerate": curve, "refused": str(refused.value)}


def one_at_a_time(samples: Any, *, batch_size: int, **options: Any) -> Any:
    assert batch_size == 2
    return torch.utils.data.DataLoader(samples, batch_size=1, **options)


def run_rank(rank: int, folder: str) -> None:
    os.environ.update(LOCAL_WORLD_SIZE="2", TORCHELASTIC_RUN_ID="tests", ACCELERATE_USE_CPU="1")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29531")
    results = trainers(rank, folder) | accelerated(rank)
    pair = pair_of_rank(rank)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lightning_loop, "DataLoader", one_at_a_time)
        # Lightning's own sampler shuffles.
        pair = replace(pair, samples=pair.samples[rank::2])
        strategy = DDPStrategy(process_group_backend="gloo")
        results["Lightning"] = lightning_loop.train(pair, devices=2, strategy=strategy, use_distributed_sampler=False)
    torch.save(results, f"{folder}/results-{rank}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    run_on_ranks(run_rank, 2, folder)
    return [torch.load(folder / f"results-{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one_process() -> tuple[list[float], Pair]:
    pair = tiny_pair()
    return plain_loop.train(pair), pair


@pytest.mark.parametrize("loop", ["Trainer", "Accelerate", "Lightning"])
def test_two_processes_give_the_curve_of_one(loop: str, results: Any, one_process: Any) -> None:
    for found in results:
        assert found[loop] == pytest.approx(one_process[0], rel=1e-5)


def test_projectors_are_the_same_on_all_ranks_and_those_of_one_process(results: Any, one_process: Any) -> None:
    _, pair = one_process
    for name, parameter in pair.loss_fn.named_parameters():
        assert torch.equal(results[0]["projectors"][name], results[1]["projectors"][name])
        torch.testing.assert_close(results[0]["projectors"][name], parameter.detach(), rtol=1e-3, atol=1e-4)


def test_two_processes_resume(results: Any) -> None:
    for found in results:
        assert found["resumed"] == pytest.approx(found["Trainer"], rel=1e-6)


def test_repeated_samples_are_evaluated_once(results: Any, one_process: Any) -> None:
    _, pair = one_process
    with torch.no_grad():
        expected = pair.loss_fn.run(pair.student.eval(), pair.teacher, pair.collate(pair.samples[:5]))
    for found in results:
        assert found["evaluation"]["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-4)
        assert found["evaluation"]["eval_ce"] == pytest.approx(expected.terms["ce"].item(), rel=1e-4)


def test_ranks_may_divide_by_their_own_tokens(results: Any, one_process: Any) -> None:
    assert results[0]["own"] == results[1]["own"]
    assert results[0]["own"] != pytest.approx(one_process[0], rel=1e-3)
