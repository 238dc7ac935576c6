"""Gradients of a module that no engine wraps, averaged over ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from dskd_components.distributed.gathering import whole_parameters
from dskd_components.distributed.ranks import world_size
from dskd_components.distributed.synchronisation import differences_to_first_rank, in_words
from dskd_components.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from torch.distributed import ProcessGroup


@torch.no_grad()
def reduce_gradients(module: nn.Module, *, group: ProcessGroup | None = None) -> None:
    """Average a module's gradients over ranks, as ``DistributedDataParallel`` does for one that it wraps.

    Call it on all ranks together, once a step: after the last ``backward`` of an accumulation, before gradients are
    clipped and the optimizer's step. A second call changes nothing. Parameters that an engine has sharded are
    left to it.

    Args:
        module: usually the `DSKDLoss`, whose projectors and aligner stand outside of the wrapped student.
        group: the ranks; None: all. With tensor parallelism, the data-parallel ones.

    Examples:
        >>> layer = torch.nn.Linear(2, 2)
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> reduce_gradients(layer)  # one process: the gradients are those of all ranks already
    """
    ranks = world_size(group)
    if ranks == 1:
        return
    for bucket in _buckets(module):
        # A rank that gave a parameter nothing still takes part; whether any gave something travels along.
        given = torch.tensor([float(parameter.grad is not None) for parameter in bucket], device=bucket[0].device)
        flat = torch.cat([*(_gradient(parameter).flatten() for parameter in bucket), given])
        dist.all_reduce(flat, group=group)
        *parts, given = (flat / ranks).split([*(parameter.numel() for parameter in bucket), len(bucket)])
        for parameter, part, anybody in zip(bucket, parts, given.tolist(), strict=True):
            if anybody:
                parameter.grad = part.view_as(parameter).to(parameter.dtype)


def require_reduced_gradients(module: nn.Module, *, group: ProcessGroup | None = None) -> None:
    """Refuse gradients that differ between ranks: nobody has reduced them.

    A wrapper around the student reduces the student's gradients alone. Projectors that stand outside then follow each
    rank's own batch, and nothing fails. This looks at the outcome, so it is right about every engine. All ranks must
    call it together, before the optimizer's step; a few times at the start of training are enough.

    Args:
        module: usually the `DSKDLoss`.
        group: the ranks; None: all.

    Raises:
        InputError: a gradient differs, on every rank; the message names its parameter and the largest difference.

    Examples:
        >>> require_reduced_gradients(torch.nn.Linear(2, 2))  # one process has nothing to reduce
    """
    if world_size(group) == 1:
        return
    trainable = {name: parameter for name, parameter in whole_parameters(module).items() if parameter.requires_grad}
    gradients = {name: _gradient(parameter) for name, parameter in trainable.items()}
    differences = differences_to_first_rank(gradients, group)
    if differences:
        raise InputError(
            f"The gradients of {type(module).__name__} are not reduced over ranks: that of {in_words(differences)}. "
            "Nothing wraps its parameters. Wrap it in DistributedDataParallel, train it inside of the module that your "
            "engine wraps, or call dskd_components.distributed.reduce_gradients(...) on it after each backward, before "
            "the optimizer's step."
        )


def _gradient(parameter: nn.Parameter) -> Tensor:
    """Return the gradient, zero where there is none, in at least float32."""
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    return torch.zeros_like(parameter, dtype=dtype) if parameter.grad is None else parameter.grad.to(dtype)


def _buckets(module: nn.Module) -> Sequence[Sequence[nn.Parameter]]:
    """Return the trainable parameters, together where their gradients can travel together."""
    buckets: dict[tuple[torch.device, torch.dtype], list[nn.Parameter]] = {}
    for parameter in whole_parameters(module).values():
        if parameter.requires_grad:
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            buckets.setdefault((parameter.device, dtype), []).append(parameter)
    return list(buckets.values())
