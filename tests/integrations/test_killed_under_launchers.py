"""Trainers under all engines, killed between two steps, go on from their last checkpoint to one process's curve."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing import ProcessExitedException
from transformers import TrainerCallback

from examples import sft_trainer
from tests.helpers.process_groups import run_on_ranks
from tests.helpers.trainers_of_ranks import ENGINES, curve_of, engine_on_cpu, options_of, pair_of_rank, trainer_of

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.minutes

RANKS = 2
STUDENTS = ("whole", "LoRA")


class Kill(TrainerCallback):
    """Ends a process after its third step, with no chance to tidy up."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def prepare() -> None:
    os.environ.update(LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="29537", TORCHELASTIC_RUN_ID="tests")


def run_until_killed(rank: int, folder: str) -> None:
    prepare()
    engine, student = Path(folder).name.split("+")
    with engine_on_cpu(engine):
        pair = pair_of_rank(rank, lora=student == "LoRA")
        trainer = trainer_of(engine, pair, folder, save_strategy="steps", save_steps=1)
        trainer.add_callback(Kill())
        trainer.train()


def go_on(rank: int, folder: str) -> None:
    prepare()
    curves = {}
    for engine in ENGINES:
        for student in STUDENTS:
            with engine_on_cpu(engine):
                pair = pair_of_rank(rank, lora=student == "LoRA")
                trainer = trainer_of(engine, pair, f"{folder}/{engine}+{student}", save_strategy="steps", save_steps=1)
                trainer.train(resume_from_checkpoint=True)
                assert trainer.state.log_history[2]["step"] == 3
                curves[engine, student] = curve_of(trainer)
        with engine_on_cpu(engine):
            options = {"per_device_train_batch_size": 1, "log_level": "error"} | options_of(engine)
            curves[engine, "TRL"] = sft_trainer.train(pair_of_rank(rank), **options)
    torch.save(curves, f"{folder}/curves-{rank}.pt")


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    folder = tmp_path_factory.mktemp("killed")
    found: dict[tuple[str, str], Any] = {}
    for student in STUDENTS:
        trainer = trainer_of("", pair_of_rank(0, lora=student == "LoRA"), folder / student)
        trainer.train()
        found["", student] = curve_of(trainer)
        for engine in ENGINES:
            own = folder / f"{engine}+{student}"
            own.mkdir()
            with pytest.raises(ProcessExitedException, match="SIGKILL"):
                run_on_ranks(run_until_killed, RANKS, own)
            assert (own / "checkpoint-2/trainer_state.json").is_file()
    found["", "TRL"] = sft_trainer.train(pair_of_rank(0), use_cpu=True)
    run_on_ranks(go_on, RANKS, folder)
    return found | torch.load(folder / "curves-0.pt", weights_only=False)


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_killed_run_ends_as_one_process_does(engine: str, student: str, curves: dict[tuple[str, str], Any]) -> None:
    found, whole = curves[engine, student], curves["", student]
    assert len(found) == len(whole) == 4
    for own, other in zip(found, whole, strict=True):
        assert own == pytest.approx(other, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("engine", ENGINES)
def test_trls_trainer_gives_the_curve_of_one_process(engine: str, curves: dict[tuple[str, str], Any]) -> None:
    assert curves[engine, "TRL"] == pytest.approx(curves["", "TRL"], rel=1e-5)
