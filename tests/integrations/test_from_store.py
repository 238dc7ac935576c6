"""Every loop learns from a store what it learns from the teacher: the store stands in its place, with nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dskd_components import ReadAheadCollator, TeacherStore
from examples import accelerate_loop, from_store, lightning_loop, plain_loop, sft_trainer, trainer, two_processes
from examples.tiny import Pair, tiny_pair
from tests.helpers.process_groups import run_on_ranks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOOPS: dict[str, Callable[[Pair], list[float]]] = {
    "plain": plain_loop.train,
    "Trainer": trainer.train,
    "SFTTrainer": sft_trainer.train,
    "Accelerate": accelerate_loop.train,
    "Lightning": lightning_loop.train,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pair, made = tiny_pair(), tmp_path_factory.mktemp("store")
    TeacherStore.build(made, pair.teacher, pair.collate, pair.samples, dtype="float32")
    return made


@pytest.fixture(scope="module")
def live_curve() -> list[float]:
    return plain_loop.train(tiny_pair())


def stored_pair(folder: Path | str, *, ahead: bool) -> Pair:
    """The pair with a store in the place of the teacher."""
    pair, store = tiny_pair(), TeacherStore(folder)
    collate: Any = ReadAheadCollator(pair.collate, store) if ahead else pair.collate
    teacher: Any = store
    return replace(pair, teacher=teacher, collate=collate)


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning, of what newer torch deprecates
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("ahead", [False, True])
def test_every_loop_gives_the_curve_of_the_teacher(
    loop: str, ahead: bool, folder: Path, live_curve: list[float]
) -> None:
    assert LOOPS[loop](stored_pair(folder, ahead=ahead)) == pytest.approx(live_curve, rel=1e-5)


def ranks(rank: int, folder: str) -> None:
    pair = tiny_pair()
    store = TeacherStore.build(f"{folder}/store", pair.teacher, pair.collate, pair.samples, dtype="float32")
    assert len(store) == len(pair.samples), "each rank sees what all have built"
    torch.save(two_processes.train(stored_pair(f"{folder}/store", ahead=bool(rank))), f"{folder}/{rank}.pt")


def test_ranks_build_one_store_together_and_learn_from_it(tmp_path: Path, live_curve: list[float]) -> None:
    run_on_ranks(ranks, 2, tmp_path)
    assert torch.load(tmp_path / "0.pt") == pytest.approx(live_curve, rel=1e-5)
    assert len(list((tmp_path / "store").glob("states-*"))) == 2
    assert TeacherStore(tmp_path / "store").verify(tiny_pair().teacher).passed


def test_checkpoints_hold_nothing_of_a_store(tmp_path: Path, folder: Path) -> None:
    made = trainer.new_trainer(stored_pair(folder, ahead=True), tmp_path, save_strategy="epoch")
    made.train()
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    names = {path.name for path in checkpoint.rglob("*")}
    assert "model.safetensors" in names
    assert not any("teacher" in name or "store" in name for name in names)
    assert not made.teacher.state_dict()


def test_the_example_learns_without_its_teacher(tmp_path: Path) -> None:
    pair = tiny_pair()
    from_store.build(pair, tmp_path)
    nobody: Any = None
    losses = from_store.train(replace(pair, teacher=nobody), tmp_path, workers=0)
    assert len(losses) == 4
    assert losses[-1] < losses[0]
