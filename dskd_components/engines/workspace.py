"""`Workspace`: memory for large matrices, which one step after another uses."""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import os
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor


HUGE_PAGE: Final = 2 * 2**20
"""Bytes of a large page, by which Linux may hand out memory instead of by 4 KiB. A system that has other sizes ignores
the hint."""


class Scratch:
    """Hands out matrices that are uninitialised, each with memory of its own.

    Args:
        free: memory that may be used.
    """

    def __init__(self, free: list[mmap.mmap]) -> None:
        self._free = free
        self._used: list[mmap.mmap] = []

    def matrix(self, rows: int, columns: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return ``[rows, columns]``, uninitialised.

        Args:
            rows: rows.
            columns: columns.
            dtype: of the entries.
            device: where it is.
        """
        size = rows * columns * dtype.itemsize
        if device.type != "cpu" or size < 2 * HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
            return torch.empty(rows, columns, dtype=dtype, device=device)
        return torch.frombuffer(self._memory(size), dtype=dtype, count=rows * columns).view(rows, columns)

    def _memory(self, size: int) -> mmap.mmap:
        """Return the smallest free memory that is large enough; new one takes the place of the largest that is not."""
        self._free.sort(key=len)
        chosen = next((memory for memory in self._free if len(memory) >= size), None)
        if chosen is not None:
            self._free.remove(chosen)
        else:
            del self._free[-1:]
            chosen = mmap.mmap(-1, math.ceil(size / HUGE_PAGE) * HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            with contextlib.suppress(OSError):  # a kernel without large pages
                chosen.madvise(mmap.MADV_HUGEPAGE)
        self._used.append(chosen)
        return chosen

    def all_memory(self) -> list[mmap.mmap]:
        """Return what was used and what was not, for who comes next; the system may take it where it is short."""
        for memory in self._used:
            with contextlib.suppress(OSError):
                memory.madvise(mmap.MADV_FREE)
        return self._free + self._used


class Workspace:
    """Keeps the memory of large matrices from step to step.

    Memory that comes from the system anew is cleared first, and on a CPU that takes longer than several operations on
    it. A copy of a workspace is an empty one, and so is a pickled one; a GPU's allocator keeps memory itself.

    Examples:
        >>> import torch
        >>> workspace = Workspace()
        >>> with workspace.lend() as scratch:
        ...     tuple(scratch.matrix(2, 3, dtype=torch.float32, device=torch.device("cpu")).shape)
        (2, 3)
    """

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    @contextmanager
    def lend(self) -> Iterator[Scratch]:
        """Lend memory until the end of the block; who asks for some meanwhile, as from another thread, gets other."""
        free, self._free = self._free, []
        scratch = Scratch(free)
        yield scratch
        self._free = scratch.all_memory()

    def __reduce__(self) -> tuple[type[Workspace], tuple[()]]:
        return Workspace, ()


@lru_cache
def accelerator_memory(device: torch.device) -> int | None:
    """Return how many bytes of memory an accelerator has in all, whoever uses it; None on a CPU, or if nobody knows.

    That does not change from step to step, so what follows from it does not either; and nobody waits for the device.

    Args:
        device: the device.

    Examples:
        >>> import torch
        >>> accelerator_memory(torch.device("cpu")) is None
        True
    """
    if device.type not in ("cuda", "xpu"):
        return None
    total: int = torch.get_device_module(device).get_device_properties(device).total_memory
    return total


def in_large_pages(matrix: Tensor) -> Tensor:
    """Return an uninitialised matrix, whose memory the system is to hand out in large pages, once it is written.

    It is for what is handed on, and so cannot be in a workspace's memory. The first write to each page waits for the
    system, and a matrix of 100 MiB has 25,600 small ones.

    Args:
        matrix: nothing was written to it yet.
    """
    advise, hint = _advise(), getattr(mmap, "MADV_HUGEPAGE", None)
    if advise is None or hint is None or type(matrix) is not torch.Tensor or matrix.device.type != "cpu":
        return matrix
    if matrix.nbytes < 2 * HUGE_PAGE:
        return matrix
    try:
        address = matrix.data_ptr()
    except RuntimeError:  # a batch of gradients (is_grads_batched) has none
        return matrix
    # The large pages that lie in it whole; what is around them belongs to others.
    first = math.ceil(address / HUGE_PAGE) * HUGE_PAGE
    size = (address + matrix.nbytes - first) // HUGE_PAGE * HUGE_PAGE
    advise(ctypes.c_void_p(first), ctypes.c_size_t(size), hint)  # a hint: it may be refused
    return matrix


@lru_cache
def _advise() -> Callable[..., int] | None:
    """Return the C library's `madvise`; None on a system that has none."""
    return getattr(ctypes.CDLL(None), "madvise", None) if os.name == "posix" else None


def keep_freed_memory(size: int, device: torch.device) -> None:
    """Have a C library keep what small tensors free for those that come next, where it would hand it back.

    The operations on a block of logits each make a tensor of a few MiB and drop it. If its memory came from the system
    each time, its first writes would cost as much as the arithmetic.

    Args:
        size: bytes of the tensors that exist at once.
        device: where the tensors are.
    """
    if device.type == "cpu":
        # Taken and given back, untouched. glibc hands a freed piece of less than 32 MiB back to the system until it has
        # seen one as large; from then on it keeps up to twice as much for the next who asks.
        torch.empty(size * 3 // 4, dtype=torch.uint8, device="cpu")
