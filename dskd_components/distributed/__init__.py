"""What a loss needs beside an engine that shards the models over ranks: DDP, FSDP2, Accelerate, DeepSpeed.

Without a process group each function does what is right for one process. `gathering` makes whole weights, `gradients`
reduces them, `synchronisation` compares ranks. Import the names below.
"""

from dskd_components.distributed.gathering import gathered
from dskd_components.distributed.gradients import reduce_gradients, require_reduced_gradients
from dskd_components.distributed.ranks import sum_over_ranks, world_size
from dskd_components.distributed.synchronisation import require_synchronised, synchronise

__all__ = [
    "gathered",
    "reduce_gradients",
    "require_reduced_gradients",
    "require_synchronised",
    "sum_over_ranks",
    "synchronise",
    "world_size",
]
