"""Which tensors of a module each rank holds whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dskd_components.distributed.sharded_tensors import is_sharded
from dskd_components.distributed.zero_partitions import is_partitioned

if TYPE_CHECKING:
    from torch import Tensor, nn


def whole_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters by name, without those that an engine has spread over ranks and looks after itself."""
    return {name: parameter for name, parameter in module.named_parameters() if not is_in_parts(parameter)}


def whole_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return the buffers by name, likewise."""
    return {name: buffer for name, buffer in module.named_buffers() if not is_in_parts(buffer)}


def is_in_parts(tensor: Tensor) -> bool:
    """Return whether an engine has spread a tensor over ranks, though it may have gathered it for the moment."""
    return is_sharded(tensor) or is_partitioned(tensor)
