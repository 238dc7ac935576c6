"""Whether all ranks hold the same tensors, and making them so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from dskd_components.distributed.gathering import whole_buffers, whole_parameters
from dskd_components.distributed.ranks import world_size
from dskd_components.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from torch.distributed import ProcessGroup


def require_same_names(tensors: Mapping[str, Tensor], group: ProcessGroup | None) -> None:
    """Refuse tensors that are not the same ones on all ranks, by name, shape and dtype.

    Args:
        tensors: this rank's, by name.
        group: the ranks.

    Raises:
        InputError: they are not, on every rank; the message names one that differs.
    """
    own = [f"{name} {list(tensor.shape)} {tensor.dtype}" for name, tensor in tensors.items()]
    found: list[list[str]] = [[]] * world_size(group)
    dist.all_gather_object(found, own, group=group)
    for rank, theirs in enumerate(found):
        if theirs != found[0]:
            odd = sorted(set(theirs) ^ set(found[0])) or ["their order"]
            raise InputError(
                f"Rank {rank} has other tensors than rank 0, for example {odd[0].replace('torch.', '')!r}. Build the "
                "loss from the same spec and the same models on all ranks."
            )


@torch.no_grad()
def differences_to_first_rank(tensors: Mapping[str, Tensor], group: ProcessGroup | None) -> dict[str, float]:
    """Return by how much each tensor differs between the first rank and any other, where it does.

    Args:
        tensors: this rank's, by name; the same ones on all ranks.
        group: the ranks.

    Returns:
        The largest absolute differences by name, the same on all ranks; NaN against NaN is none, against a number it
        is infinite.
    """
    if not tensors:
        return {}
    largest = torch.stack([_difference(tensor, from_first_rank(tensor, group)) for tensor in tensors.values()])
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    return {name: value for name, value in zip(tensors, largest.tolist(), strict=True) if value > 0}


@torch.no_grad()
def from_first_rank(tensor: Tensor, group: ProcessGroup | None) -> Tensor:
    """Return the first rank's tensor, on all ranks."""
    received = tensor.detach().clone(memory_format=torch.contiguous_format)
    if received.numel():
        dist.broadcast(received, src=0 if group is None else dist.get_global_rank(group, 0), group=group)
    return received


def _difference(ours: Tensor, theirs: Tensor) -> Tensor:
    differs = (ours != theirs) & ~(ours.isnan() & theirs.isnan())
    absolute = (ours.float() - theirs.float()).abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    # Numbers that differ beyond float32 differ all the same.
    absolute = absolute.clamp_min(torch.finfo(torch.float32).tiny).where(differs, 0.0)
    return absolute.max() if absolute.numel() else absolute.new_zeros(())


def in_words(differences: Mapping[str, float]) -> str:
    """Return which tensor differs most, by how much, and how many others do."""
    worst = max(differences, key=lambda name: differences[name])
    others = f" ({len(differences) - 1} others differ, too)" if len(differences) > 1 else ""
    return f"{worst!r} differs by up to {differences[worst]:.3g} from the first rank's{others}"


@torch.no_grad()
def synchronise(module: nn.Module, *, group: ProcessGroup | None = None) -> None:
    """Give all ranks the first rank's parameters and buffers, as wrapping in ``DistributedDataParallel`` does.

    For a loss that is not wrapped: its projectors start from random numbers, which differ between ranks. All ranks must
    call this together, before the first step. Parameters that an engine has sharded are left to it.

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
