"""Running a function on several gloo processes."""

from __future__ import annotations

import multiprocessing
import os
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Ranks are forked from a process that has imported these and done nothing else: so they are there at once.
PRELOADED = (
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "torch.nn.parallel",
    "transformers.models.llama.modeling_llama",
    "dskd_components",
)


def run_on_ranks(function: Callable[[int, str], None], ranks: int, folder: Path) -> None:
    """Call ``function(rank, folder)`` on so many ranks; it saves what it finds in the folder."""
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    mp.start_processes(_run_rank, args=(function, ranks, str(folder)), nprocs=ranks, start_method="forkserver")


def _run_rank(rank: int, function: Callable[[int, str], None], ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    function(rank, folder)
    dist.destroy_process_group()
