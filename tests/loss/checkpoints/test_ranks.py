"""Under several processes one of them writes."""

from __future__ import annotations

from pathlib import Path

import torch.distributed as dist

from dskd_components import DSKDLoss, DSKDSpec
from tests.helpers.process_groups import run_on_ranks


def save_on_rank(rank: int, folder: str) -> None:
    loss_fn = DSKDLoss(DSKDSpec(), student_hidden_size=2, teacher_hidden_size=3)
    loss_fn.save(Path(folder, f"own-{rank}"))
    loss_fn.save(Path(folder, "shared"))
    dist.barrier()
    # Every rank may read what rank 0 has written.
    loss_fn.restore(Path(folder, "shared"))


def test_only_the_first_rank_writes(tmp_path: Path) -> None:
    run_on_ranks(save_on_rank, 2, tmp_path)
    names = {"projectors.json", "projectors.safetensors"}
    assert {path.name for path in (tmp_path / "shared").iterdir()} == names
    assert (tmp_path / "own-0").is_dir()
    assert not (tmp_path / "own-1").exists()
