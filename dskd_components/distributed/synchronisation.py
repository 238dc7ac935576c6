"""The same parameters on all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dskd_components.distributed.comparison import (
    differences_to_first_rank,
    from_first_rank,
    in_words,
    require_same_names,
)
from dskd_components.distributed.parameters import whole_buffers, whole_parameters
from dskd_components.distributed.ranks import world_size
from dskd_components.errors import InputError

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed import ProcessGroup


@torch.no_grad()
def synchronise(module: nn.Module, *, group: ProcessGroup | None = None) -> None:
    """Give all ranks the first rank's parameters and buffers, as wrapping in ``DistributedDataParallel`` does.

    For a loss that is not wrapped: its projectors start from random numbers, which differ between ranks. All ranks must
    call this together, before the first step. Parameters that an engine has spread over ranks are left to it.

    Args:
        module: usually the `DSKDLoss`.
        group: the ranks; None: all.

    Raises:
        InputError: the ranks' modules have other parameters; the message names one.

    Examples:
        >>> synchronise(torch.nn.Linear(2, 2))  # one process: nothing to do
    """
    if world_size(group) == 1:
        return
    tensors = {**whole_parameters(module), **whole_buffers(module)}
    require_same_names(tensors, group)
    for tensor in tensors.values():
        tensor.copy_(from_first_rank(tensor, group))


def require_synchronised(module: nn.Module, *, group: ProcessGroup | None = None) -> None:
    """Refuse a module whose parameters are not the same on all ranks, to the last bit.

    Ranks that start apart, or whose gradients are not reduced, train models of their own, and nothing fails. All ranks
    must call this together: after building, after loading, now and then in training. Each parameter is sent once.

    Args:
        module: usually the `DSKDLoss`.
        group: the ranks; None: all.

    Raises:
        InputError: a parameter differs, on every rank; the message names it and the largest difference.

    Examples:
        >>> require_synchronised(torch.nn.Linear(2, 2))  # one process agrees with itself
    """
    if world_size(group) == 1:
        return
    parameters = whole_parameters(module)
    require_same_names(parameters, group)
    differences = differences_to_first_rank(parameters, group)
    if differences:
        raise InputError(
            f"The ranks hold different parameters of {type(module).__name__}: {in_words(differences)}. Wrap it in "
            "DistributedDataParallel; or leave it unwrapped, call dskd_components.distributed.synchronise(...) on it "
            "before the first step, and reduce_gradients(...) after each backward, before the optimizer's step."
        )
