"""Loss and gradients of ranks equal those of one process on the same batch, whatever spreads the models."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import pytest
import torch

from tests.helpers import engines_of_ranks
from tests.helpers.distributed_step import make_step, of_one_process
from tests.helpers.process_groups import run_on_ranks

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained, and how."""

    spread: str
    preset: str = "dskd"
    tied: bool = False
    silent: bool = False
    accumulate: bool = False
    engine: str = "tiled"

    def __str__(self) -> str:
        options = [name for name in ("tied", "silent", "accumulate") if getattr(self, name)]
        return "-".join([self.spread, self.preset, *options, self.engine])


OF_TWO = [
    *(Case(spread=spread, preset=preset) for spread in ("DDP", "FSDP2") for preset in ("dskd-cma", "dskd-v2")),
    *(Case(spread=spread, silent=True, accumulate=True) for spread in ("DDP", "DDPStudent", "FSDP2", "FSDP2Resharded")),
    *(Case(spread=spread, tied=True, accumulate=True) for spread in ("DDPStudent", "FSDP2", "FSDP2Resharded")),
    Case(spread="FSDP2Resharded", preset="dskd-cma", tied=True),
    *(Case(spread=spread, preset="dskd-v2", accumulate=True) for spread in ("FSDP2BuiltAfter", "FSDP2OwnHead")),
    Case(spread="FSDP2OwnHead", preset="dskd-cma", silent=True),
    *(Case(spread=spread, engine="eager", silent=True) for spread in ("DDPStudent", "FSDP2Resharded")),
    *(Case(spread=spread, preset="dskd-v2") for spread in ("TensorParallel", "TensorParallelColumns")),
    *(Case(spread=spread, tied=True, accumulate=True) for spread in ("Checkpointing", "FSDP2Checkpointing")),
    *(Case(spread=spread, preset="columns", accumulate=True) for spread in ("DDP", "FSDP2Resharded")),
    *(Case(spread=spread, preset="narrowed") for spread in ("DDP", "FSDP2Resharded", "TensorParallel")),
    Case(spread="DDPStudent", preset="narrowed", tied=True, silent=True, accumulate=True),
]
OF_FOUR = [
    Case(spread="DDP", preset="dskd-cma", accumulate=True),
    Case(spread="FSDP2", tied=True, accumulate=True),
    Case(spread="FSDP2Resharded", preset="dskd-v2", silent=True),
    Case(spread="HSDP", tied=True),
    Case(spread="FSDP2TensorParallel", preset="dskd-v2", accumulate=True),
    Case(spread="TensorParallel", preset="dskd-cma"),
]
HALF = [Case(spread=spread) for spread in ("FSDP2Half", "FSDP2HalfResharded")]
CASES = {2: OF_TWO, 4: OF_FOUR}


def run_rank(rank: int, folder: str) -> None:
    ranks = torch.distributed.get_world_size()
    for case in CASES[ranks] + (HALF if ranks == 2 else []):
        step = make_step(case.preset, tied=case.tied, silent=case.silent, engine=case.engine, seed=rank)
        found = getattr(engines_of_ranks, case.spread)(step).run(accumulate=case.accumulate)
        torch.save(found, f"{folder}/{case}-{rank}.pt")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    found = {ranks: tmp_path_factory.mktemp(f"ranks{ranks}") for ranks in CASES}
    for ranks, folder in found.items():
        run_on_ranks(run_rank, ranks, folder)
    return found


@pytest.mark.parametrize(
    ("ranks", "case"), [pytest.param(ranks, case, id=f"{ranks}-{case}") for ranks in CASES for case in CASES[ranks]]
)
def test_loss_and_gradients_equal_those_of_one_process(folders: dict[int, Path], ranks: int, case: Case) -> None:
    same = {name: value for name, value in asdict(case).items() if name not in ("spread", "accumulate")}
    expected = of_one_process(**same)
    for rank in range(ranks):
        found = torch.load(folders[ranks] / f"{case}-{rank}.pt")
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            torch.testing.assert_close(
                tensor, expected[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.parametrize("case", HALF, ids=str)
def test_half_precision_stays_near_and_gradients_are_those_of_full_parameters(
    folders: dict[int, Path], case: Case
) -> None:
    expected = of_one_process(case.preset, tied=False)
    for rank in range(2):
        found = torch.load(folders[2] / f"{case}-{rank}.pt")
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert tensor.dtype == torch.float32, name
            assert (tensor - expected[name]).norm() < 0.05 * expected[name].norm(), name
