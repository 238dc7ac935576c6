"""How many ranks there are, and sums over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def world_size(group: ProcessGroup | None = None) -> int:
    """Return the number of ranks, 1 without a process group.

    Data-parallel engines average gradients over ranks. A loss that is divided by the scored tokens of all ranks is a
    sum over them, so it is multiplied with this number before ``backward``.

    Args:
        group: whose ranks; None: all.

    Examples:
        >>> world_size()
        1
    """
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(count: Tensor | float, *, group: ProcessGroup | None = None) -> Tensor:
    """Return the sum of a number over all ranks: the scored tokens of a whole step from those of each rank.

    All ranks must call this together.

    Args:
        count: this rank's number, a scalar; a tensor on a device that the process group communicates on.
        group: over whose ranks; None: all. With tensor parallelism, the data-parallel ones.

    Returns:
        A scalar on the same device, detached; the argument is not modified.

    Examples:
        >>> labels = torch.tensor([[-100, 5, 6, -100], [-100, 7, 8, 9]])
        >>> sum_over_ranks((labels[:, 1:] != -100).sum())
        tensor(5)
    """
    # Not as_tensor alone: it moves tensors to the default device.
    total = count.detach().clone() if isinstance(count, Tensor) else torch.as_tensor(count)
    if world_size(group) > 1:
        dist.all_reduce(total, group=group)
    return total
