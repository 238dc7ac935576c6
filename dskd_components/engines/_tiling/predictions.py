"""The teacher's most likely tokens, from a pass that is made anyway or from one of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dskd_components.engines._tiling.head_products import widened_bytes
from dskd_components.engines._tiling.head_stack import HeadStack
from dskd_components.engines._tiling.logit_block import blocked_argmax
from dskd_components.engines._tiling.plan import Plan
from dskd_components.engines._tiling.tiled_states import TiledStates

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.engines._tiling.side_pass import SideResult
    from dskd_components.engines.aligned_batch import AlignedBatch
    from dskd_components.engines.workspace import Scratch


@torch.no_grad()
def teacher_predictions(batch: AlignedBatch, result: SideResult | None, scratch: Scratch, budget: int) -> Tensor:
    """Return ``[B, Tt]``, int64: the teacher's most likely token where its choice is asked for, -1 elsewhere.

    Args:
        batch: the states of both models.
        result: the pass through the teacher's space, if there was one; what it predicted is not computed again.
        scratch: memory for tiles.
        budget: bytes.
    """
    teacher = batch.teacher
    predicted = torch.full_like(teacher.targets, -1).flatten()
    if result is not None and result.predicted is not None:
        predicted[result.positions] = result.predicted
    missing = (batch.argmax_positions.flatten() & (predicted < 0)).nonzero().squeeze(1)
    if len(missing):
        predicted[missing] = _argmax(
            TiledStates(teacher.hidden_states.flatten(0, 1), teacher.head, positions=missing), scratch, budget
        )
    return predicted.reshape(teacher.targets.shape)


def _argmax(stream: TiledStates, scratch: Scratch, budget: int) -> Tensor:
    dtype = stream.dtype
    plan = Plan.of(
        budget=budget,
        rows=len(stream),
        vocabularies=[stream.head.vocabulary_size],
        itemsize=dtype.itemsize,
        widened=widened_bytes(stream.head, dtype),
        has_cache=stream.head.weight.device.type == "cpu",
    )
    stack = HeadStack([stream], plan, dtype, scratch)
    return torch.cat([blocked_argmax(stack.logits({stream: tile})[stream]) for tile in plan.tiles(0, len(stream))])
