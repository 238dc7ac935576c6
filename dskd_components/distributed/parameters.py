"""Which tensors of a module each rank holds whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dskd_components.distributed.sharded_tensors import is_sharded
from dskd_components.distributed.zero_partitions import is_partitioned

if TYPE_CHECKING:
    from torch import Tensor, nn


def whole_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters by name, without those that an engine has spread over ranks and looks after itself."""
    return {name: parameter for name, parameter in module.named_parameters() if _is_whole(parameter)}


def whole_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return the buffers by name, likewise."""
    return {name: buffer for name, buffer in module.named_buffers() if _is_whole(buffer)}


def _is_whole(tensor: Tensor) -> bool:
    return not is_sharded(tensor) and not is_partitioned(tensor)
