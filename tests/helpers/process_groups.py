"""Running a function on several gloo processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.helpers.processes import forkserver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def run_on_ranks(function: Callable[[int, str], None], ranks: int, folder: Path) -> None:
    """Call ``function(rank, folder)`` on so many ranks; it saves what it finds in the folder."""
    start_ranks(_run_rank, args=(function, ranks, str(folder)), nprocs=ranks)


def start_ranks(function: Callable[..., None], args: tuple[Any, ...], nprocs: int) -> None:
    """`torch.multiprocessing.spawn`, from where imports are done already."""
    forkserver()
    mp.start_processes(function, args=args, nprocs=nprocs, start_method="forkserver")


def _run_rank(rank: int, function: Callable[[int, str], None], ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    function(rank, folder)
    if dist.is_initialized():  # some loops end it themselves
        dist.destroy_process_group()
