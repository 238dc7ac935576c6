"""Under several processes one of them writes."""

from __future__ import annotations

from pathlib import Path

import torch.distributed as dist
import torch.multiprocessing as mp

from dskd_components import DSKDLoss, DSKDSpec


def save_on_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    loss_fn = DSKDLoss(DSKDSpec(), student_hidden_size=2, teacher_hidden_size=3)
    loss_fn.save(Path(folder, f"own-{rank}"))
    loss_fn.save(Path(folder, "shared"))
    dist.barrier()
    # Every rank may read what rank 0 has written.
    loss_fn.restore(Path(folder, "shared"))
    dist.destroy_process_group()


def test_only_the_first_rank_writes(tmp_path: Path) -> None:
    mp.spawn(save_on_rank, args=(str(tmp_path),), nprocs=2)
    names = {"projectors.json", "projectors.safetensors"}
    assert {path.name for path in (tmp_path / "shared").iterdir()} == names
    assert (tmp_path / "own-0").is_dir()
    assert not (tmp_path / "own-1").exists()
