"""Large scratch tensors whose memory is quick to come by."""

from __future__ import annotations

import contextlib
import math
import mmap
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from torch import Tensor

HUGE_PAGE: Final = 2 * 2**20
"""Bytes of a large page, by which Linux may hand out memory instead of by 4 KiB. A system that has other sizes ignores
the hint."""


def keep_freed_memory(size: int, device: torch.device) -> None:
    """Have a C library keep what small tensors free for those that come next, where it would hand it back.

    The operations on a block of logits each make a tensor of a few MiB and drop it. If its memory came from the system
    each time, its first writes would cost as much as the arithmetic.

    Args:
        size: bytes of the tensors that exist at once.
        device: where the tensors are.
    """
    if device.type == "cpu":
        # Taken and given back, untouched. glibc hands a freed piece of up to 32 MiB back to the system until it has
        # seen one as large; from then on it keeps up to twice as much for the next who asks.
        torch.empty(size // 2, dtype=torch.uint8)


def scratch(rows: int, columns: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return ``[rows, columns]``, uninitialised, for a matrix that is used for one step and dropped.

    Such a matrix comes from the system anew each step, and on a CPU the first write to each small page of it costs more
    than several later ones. Large pages are asked for where the system has them.

    Args:
        rows: rows.
        columns: columns.
        dtype: of the entries.
        device: where it is.

    Examples:
        >>> import torch
        >>> tuple(scratch(2, 3, dtype=torch.float32, device=torch.device("cpu")).shape)
        (2, 3)
    """
    size = rows * columns * dtype.itemsize
    if device.type != "cpu" or size < 2 * HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(rows, columns, dtype=dtype, device=device)
    memory = mmap.mmap(-1, math.ceil(size / HUGE_PAGE) * HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype, count=rows * columns).view(rows, columns)
