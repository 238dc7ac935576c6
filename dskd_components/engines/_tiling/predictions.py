"""The teacher's most likely tokens, from a pass that is made anyway or from one of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from dskd_components.engines._tiling.exchanged_pass import ExchangedStack
from dskd_components.engines._tiling.head_products import numbers_beside, widened_bytes
from dskd_components.engines._tiling.head_stack import HeadStack
from dskd_components.engines._tiling.logit_block import blocked_argmax
from dskd_components.engines._tiling.logit_part import argmax_of_parts
from dskd_components.engines._tiling.plan import Plan
from dskd_components.engines._tiling.tiled_states import TiledStates
from dskd_components.models.host_reads import to_device

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.distributed.vocabulary_shards import VocabularyShards
    from dskd_components.engines._tiling.products import Products
    from dskd_components.engines._tiling.side_pass import SideResult
    from dskd_components.engines.aligned_batch import AlignedBatch
    from dskd_components.engines.workspace import Scratch


@torch.no_grad()
def teacher_predictions(
    batch: AlignedBatch, result: SideResult | None, scratch: Scratch, budget: int, products: Products
) -> Tensor:
    """Return ``[B, Tt]``, int64: the teacher's most likely token where its choice is asked for, -1 elsewhere.

    Args:
        batch: the states of both models.
        result: the pass through the teacher's space, if there was one; what it predicted is not computed again.
        scratch: memory for tiles.
        budget: bytes.
        products: how kernels of products are chosen.
    """
    teacher = batch.teacher
    predicted = torch.full_like(teacher.targets, -1).flatten()
    asked = batch.positions.argmax.mask
    if result is not None and result.predicted is not None:
        predicted.index_copy_(0, result.coverage.positions, result.predicted)
        asked = asked.index_fill(0, result.coverage.on_host, value=False)
    shards = teacher.head.shards
    # Where ranks have cut the head and have batches of their own, one that asks for nothing helps the others.
    if asked.any() or not (shards is None or shards.same_rows):
        missing = to_device(asked.nonzero().squeeze(1), predicted.device)
        stream = TiledStates(
            teacher.hidden_states.flatten(0, 1),
            teacher.head,
            all_finite=False,
            positions=missing,
            stored_as=teacher.widened_from,
        )
        predicted.index_copy_(0, missing, _argmax(stream, scratch, budget, products))
    return predicted.reshape(teacher.targets.shape)


def _argmax(stream: TiledStates, scratch: Scratch, budget: int, products: Products) -> Tensor:
    dtype, shards = stream.dtype, stream.shards
    most = len(stream)
    if shards is not None and not shards.same_rows:
        most = int(shards.largest(torch.tensor(most, device=shards.device)))
    plan = Plan.of(
        budget=budget,
        rows=most if shards is None or shards.same_rows else most * shards.ranks,
        vocabularies=[stream.head.vocabulary_size],
        itemsize=dtype.itemsize,
        widened=widened_bytes(stream.head, dtype, products),
        has_cache=stream.head.device.type == "cpu",
        products=products,
        beside=numbers_beside([stream.head], products),
    )
    if shards is None:
        stack = HeadStack([stream], plan, dtype, scratch)
        return torch.cat([blocked_argmax(stack.logits({stream: tile})[stream]) for tile in plan.tiles(0, most)])
    plan = plan.agreed(shards)
    if shards.same_rows:
        stack = HeadStack([stream], plan, dtype, scratch)
        tiles = (stack.logits({stream: tile})[stream] for tile in plan.tiles(0, most))
        return torch.cat([argmax_of_parts(tile, shards) for tile in tiles])
    return _argmax_of_own_rows(stream, replace(plan, block_rows=plan.tile_rows), most, shards, scratch)


def _argmax_of_own_rows(
    stream: TiledStates, plan: Plan, most: int, shards: VocabularyShards, scratch: Scratch
) -> Tensor:
    stack, length = ExchangedStack([stream], plan, stream.dtype, scratch, shards), len(stream)
    found = [torch.empty(0, dtype=torch.int64, device=shards.device)]
    for tile in plan.tiles(0, most):
        own = slice(min(tile.start, length), min(tile.stop, length))
        logits = stack.exchanged({stream: own}, tile.stop - tile.start)[stream]
        found.append(shards.own_rows(argmax_of_parts(logits, shards), own.stop - own.start))
    return torch.cat(found)
