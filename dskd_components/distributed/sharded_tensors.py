"""Parameters that are DTensors: FSDP2 and tensor parallelism."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is a DTensor."""
    # Nobody can have made one without this module, and importing it takes long.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def whole(parameter: Any) -> Tensor:
    """Return the whole of a DTensor, on every rank of its mesh, part of the graph.

    Args:
        parameter: the DTensor.

    Returns:
        A plain tensor. The gradient of each part is the average over the mesh: that is what data parallelism makes of
        ranks with batches of their own, and it leaves the equal gradients of tensor-parallel ranks as they are.
    """
    from torch.distributed.tensor import Partial

    mesh = parameter.device_mesh
    if parameter.device.type != mesh.device_type:
        parameter = parameter.to(mesh.device_type)  # offloaded: the mesh communicates between its own devices alone
    found: Tensor = parameter.full_tensor(grad_placements=[Partial()] * mesh.ndim)
    if found.requires_grad:
        # Not Partial("avg"), which gloo does not know; and divided before the sum, which float16 would overflow in.
        found.register_hook(lambda gradient: gradient / mesh.size())
    return found
