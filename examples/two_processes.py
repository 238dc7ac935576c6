"""Two processes with `torch.distributed` and `DistributedDataParallel`.

    python -m examples.two_processes

Student and projectors are wrapped as one module, so the gradients of both are averaged over ranks. Losses are divided
by the scored tokens of all micro-batches of all ranks.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import islice
from multiprocessing import get_context
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW
from torch.utils.data import DataLoader, Subset

from dskd_components import clip_grad_norms, scored_tokens
from dskd_components.integrations.student_with_projectors import StudentWithProjectors
from examples.command_line import command_line
from examples.tiny import Pair, tiny_pair

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

MICRO_BATCHES = 2
RANKS = 2


def train(pair: Pair) -> list[float]:
    """Train this rank's part of one epoch; return the loss of each optimizer step, over all ranks."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = StudentWithProjectors(pair.student, pair.loss_fn, pair.teacher).train()
    wrapped = DistributedDataParallel(model)
    optimizer = AdamW(model.param_groups(lr=1e-2, projector_lr=2e-2))
    own = Subset(pair.samples, range(rank, len(pair.samples), ranks))  # type: ignore[arg-type,var-annotated]
    batches = iter(DataLoader(own, batch_size=1, collate_fn=pair.collate))
    losses = []
    while window := list(islice(batches, MICRO_BATCHES)):
        num_items = scored_tokens(window)
        dist.all_reduce(num_items)
        loss = torch.zeros(())
        for batch in window:
            with nullcontext() if batch is window[-1] else wrapped.no_sync():
                out = wrapped(batch, num_items_in_batch=num_items)
                (out.loss * ranks).backward()  # the wrapper averages over ranks, but a mean over all tokens is a sum
            loss += out.loss.detach()
        clip_grad_norms(model.student, model.loss_fn, 0.4)
        optimizer.step()
        optimizer.zero_grad()
        dist.all_reduce(loss)
        losses.append(loss.item())
    return losses


def run_rank(rank: int, folder: str, results: SimpleQueue[list[float]]) -> None:
    """Run one process of the group."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    losses = train(tiny_pair())
    if rank == 0:
        results.put(losses)
    dist.destroy_process_group()


def train_in_two_processes() -> list[float]:
    """Start both processes and return the loss of each optimizer step."""
    results = get_context("spawn").SimpleQueue()
    with TemporaryDirectory() as folder:
        spawn(run_rank, args=(folder, results), nprocs=RANKS)
    losses: list[float] = results.get()
    return losses


if __name__ == "__main__":
    command_line(__doc__).parse_args()
    for step, loss in enumerate(train_in_two_processes(), start=1):
        print(f"step {step}: {loss:.4f}")
