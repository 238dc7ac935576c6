"""Projectors that no wrapper synchronises, kept one over all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from torch import nn


def synchronise(module: nn.Module) -> None:
    """Give all ranks the parameters and buffers that rank 0 has; nothing without a process group."""
    if not _several_ranks():
        return
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor, src=0)


def reduce_gradients(module: nn.Module) -> None:
    """Average gradients over all ranks, as data-parallel wrappers do; nothing without a process group.

    A parameter without a gradient on this rank counts as one of zeros, so that all ranks take part.
    """
    if not _several_ranks():
        return
    for parameter in module.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def _several_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
