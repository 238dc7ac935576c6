"""How fast devices talk to one another: bytes a second, and seconds that a collective takes however small it is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.distributed as dist

from dskd_components.distributed.ranks import world_size

if TYPE_CHECKING:
    from collections.abc import Callable

LATENCY: Final = {"nccl": 20e-6, "gloo": 100e-6}
"""Seconds of a small collective by backend, where it is not measured. Of NCCL the order of what is reported for a few
devices of one machine; more machines take more. Of gloo what two processes of one idle machine take."""

LARGE: Final = 2**20
"""Numbers that are summed to measure bytes a second."""

TIMEOUT_SECONDS: Final = 60
"""After which threads that do not hear of one another give up."""

ROUNDS: Final = 20
"""How often each is measured; the fastest counts."""


@dataclass(frozen=True)
class Link:
    """Between devices.

    Args:
        bandwidth: bytes a second that each sends.
        latency: seconds of a collective of a few bytes.
    """

    bandwidth: float
    latency: float


def measured_link(clock: Callable[[], float] = time.perf_counter) -> Link:
    """Measure the process group by summing one number, and many. All ranks call this together.

    Args:
        clock: seconds from any moment on.

    Raises:
        RuntimeError: there is no process group.

    Examples:
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> 0 < measured_link().latency < 1
        True
        >>> dist.destroy_process_group()
    """
    return _link(lambda tensor: dist.all_reduce(tensor), world_size(), clock)


def local_link() -> Link:
    """Measure gloo between two threads of this process, which are as far from one another as two processes are.

    Where PyTorch has no gloo, it is taken to be as in `LATENCY`, and to send a gigabyte a second.

    Examples:
        >>> link = local_link()
        >>> 1e6 < link.bandwidth and link.latency < 1
        True
    """
    if not dist.is_available() or not dist.is_gloo_available():
        return Link(bandwidth=1e9, latency=LATENCY["gloo"])
    distributed: Any = dist  # stubs lack what groups without a launcher are made of
    store, found = distributed.HashStore(), {}

    def run(rank: int) -> None:
        group = distributed.ProcessGroupGloo(
            distributed.PrefixStore("link", store), rank, 2, timedelta(seconds=TIMEOUT_SECONDS)
        )
        found[rank] = _link(lambda tensor: group.allreduce([tensor]).wait(), 2, time.perf_counter)

    threads = [Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found[0]


def _link(sum_up: Callable[[torch.Tensor], object], ranks: int, clock: Callable[[], float]) -> Link:
    small, large = torch.ones(1), torch.ones(LARGE)
    latency, seconds = (_fastest(sum_up, tensor, clock) for tensor in (small, large))
    # A sum is taken in two rounds, in each of which everybody sends a part to all others.
    sent = 2 * (ranks - 1) / ranks * large.nbytes
    return Link(bandwidth=max(sent, 1.0) / max(seconds - latency, 1e-9), latency=latency)


def _fastest(sum_up: Callable[[torch.Tensor], object], tensor: torch.Tensor, clock: Callable[[], float]) -> float:
    times = []
    for _ in range(ROUNDS):
        start = clock()
        sum_up(tensor)
        times.append(clock() - start)
    return max(min(times), 1e-9)
