"""Small tensors whose memory is quick to come by."""

from __future__ import annotations

import torch


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
        torch.empty(size * 3 // 4, dtype=torch.uint8)
