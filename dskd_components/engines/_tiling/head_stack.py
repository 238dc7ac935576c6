"""`HeadStack`: the streams that one head reads, side by side in one buffer, so that they share its products."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dskd_components.engines._tiling.head_products import HeadProducts

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import Tensor

    from dskd_components.engines._tiling.plan import Plan
    from dskd_components.engines._tiling.tiled_states import TiledStates
    from dskd_components.engines.workspace import Scratch


class HeadStack:
    """One head, its streams, and a buffer for a tile of logits of each.

    Args:
        streams: streams that read alike.
        plan: how large tiles are.
        dtype: what is computed in.
        scratch: memory for the buffer.
    """

    def __init__(self, streams: list[TiledStates], plan: Plan, dtype: torch.dtype, scratch: Scratch) -> None:
        self._streams = streams
        self._dtype = dtype
        head = streams[0].head
        self._products = HeadProducts(head, dtype, plan.part_bytes)
        self._forward_products = HeadProducts(streams[0].reading_head, dtype, plan.part_bytes)
        self._buffer = scratch.matrix(
            len(streams) * plan.tile_rows, head.vocabulary_size, dtype=dtype, device=head.weight.device
        )

    def logits(self, rows: slice) -> dict[TiledStates, Tensor]:
        """Return ``[n, V]`` for each stream that has these rows: its logits, in the buffer until the next tile."""
        views = self._views(rows)
        if views:
            self._forward_products.logits(self._states(views, rows), self._tile(views, rows))
        return views

    def backward(self, rows: slice) -> None:
        """Take the gradients that now stand where the logits stood to states and heads."""
        views = self._views(rows)
        if not views:
            return
        learning = [stream for stream in views if stream.states_learn]
        if len(learning) == len(views):
            gradients = self._together(self._products.states_gradient(self._tile(views, rows)), len(views))
        else:
            gradients = tuple(self._products.states_gradient(views[stream]) for stream in learning)
        for stream, gradient in zip(learning, gradients, strict=True):
            stream.set_gradient(rows, gradient)
        for stream, gradient in views.items():
            if stream.head_gradient is not None and stream.head_learns:
                stream.head_gradient.add(gradient, self._states([stream], rows))

    def _views(self, rows: slice) -> dict[TiledStates, Tensor]:
        active = [stream for stream in self._streams if len(stream) >= rows.stop]
        return dict(zip(active, self._together(self._tile(active, rows), len(active)), strict=True)) if active else {}

    def _states(self, streams: Collection[TiledStates], rows: slice) -> Tensor:
        parts = [stream.states(rows).to(self._dtype) for stream in streams]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _tile(self, streams: Collection[TiledStates], rows: slice) -> Tensor:
        return self._buffer[: len(streams) * (rows.stop - rows.start)]

    def _together(self, tensor: Tensor, streams: int) -> tuple[Tensor, ...]:
        """Return the streams' parts of what was computed for all of them at once."""
        return tensor.view(streams, len(tensor) // streams, tensor.shape[1]).unbind()
