"""The tensors that a checkpoint keeps, and their digest."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from dskd_components.distributed.gathering import is_sharded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from torch import Tensor, nn


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 over names, shapes, dtypes and bytes, in hexadecimal.

    Args:
        tensors: by name, of any device and dtype.

    Examples:
        >>> digest_of({"a": torch.zeros(2)}) == digest_of({"a": torch.zeros(2)})
        True
        >>> digest_of({"a": torch.zeros(2)}) == digest_of({"a": torch.zeros(1, 2)})
        False
    """
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def checkpoint_tensors(loss: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers of a loss.

    What a projector into the teacher's space derives from the teacher's head alone is derived again.

    Args:
        loss: the loss.

    Returns:
        By name, the live tensors, detached; those that ranks share between them are shared still.
    """
    return {name: tensor.detach() for name, tensor in loss.state_dict().items()}


@torch.no_grad()
def fill(loss: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into those of a loss that have the same names.

    Args:
        loss: the loss.
        tensors: as `checkpoint_tensors` returns them, of the same shapes.
    """
    own = checkpoint_tensors(loss)
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def whole(tensor: Any) -> Tensor:
    """Return all of a tensor, on every rank that it is sharded over.

    Args:
        tensor: a tensor, or a DTensor; then all ranks of its mesh must call.
    """
    found: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return found
