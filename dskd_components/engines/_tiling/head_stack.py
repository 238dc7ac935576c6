"""`HeadStack`: the streams that one head reads, side by side in one buffer, so that they share its products."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from dskd_components.engines._tiling.head_products import HeadProducts

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        self._rest: Tensor | None = None
        self._has_rest = head.has_rest
        self._products, self._forward_products = (
            HeadProducts(of_head, dtype, plan.part_bytes, plan.products, compiled=plan.compiled)
            for of_head in (head, streams[0].reading_head)
        )
        width, rows = head.vocabulary_size, len(streams) * plan.tile_rows
        stride = math.ceil(width / plan.alignment) * plan.alignment
        self._buffer = scratch.matrix(rows, stride, dtype=dtype, device=head.weight.device)[:, :width]

    def logits(self, rows: Mapping[TiledStates, slice]) -> dict[TiledStates, Tensor]:
        """Return ``[n, V]`` for each stream that has rows in a tile: its logits, in the buffer until the next tile.

        Args:
            rows: of each such stream, among its own; streams of other stacks may be there, too.
        """
        rows = self._own(rows)
        tile = self._buffer[: sum(_lengths(rows))]
        if len(tile):
            self._read({stream: self._states({stream: some}) for stream, some in rows.items()}, tile)
        if self._has_rest:
            self._rest = tile[:, -1].clone()  # the gradient is written over it
        return dict(zip(rows, tile.split(_lengths(rows)), strict=True))

    def _read(self, states: Mapping[TiledStates, Tensor], tile: Tensor) -> None:
        """Write the logits of streams' states: in one product, unless each is read as it is stored."""
        products, parts = self._forward_products, list(states.values())
        stored_as = [stream.stored_as for stream in states]
        if products.reads_as_stored and len(set(stored_as)) > 1:
            tiles = tile.split([len(part) for part in parts])
            for part, logits, dtype in zip(parts, tiles, stored_as, strict=True):
                products.logits(part, logits, dtype)
        else:
            products.logits(parts[0] if len(parts) == 1 else torch.cat(parts), tile, stored_as[0])

    def backward(self, rows: Mapping[TiledStates, slice]) -> None:
        """Take the gradients that now stand where the logits stood to states and heads.

        Args:
            rows: as in `logits`.
        """
        rows = self._own(rows)
        tile = self._buffer[: sum(_lengths(rows))]
        views = dict(zip(rows, tile.split(_lengths(rows)), strict=True))
        learning = [stream for stream in views if stream.states_learn]
        of_rest = self._rest_backward(rows, tile) if self._has_rest else {}
        together: dict[TiledStates, Tensor] = {}
        if len(learning) == len(views) > 1 and not self._products.gradient_parts:
            gradients = self._products.states_gradient(tile).split(_lengths(rows))
            together = dict(zip(learning, gradients, strict=True))
        for stream, gradient in views.items():
            states = self._states({stream: rows[stream]}) if stream.head_learns else None
            found = self._take_back(stream, gradient, states, wanted=stream not in together)
            found = together.get(stream, found)
            if found is not None:
                stream.set_gradient(rows[stream], found + of_rest[stream] if of_rest else found)

    def _take_back(
        self, stream: TiledStates, gradient: Tensor, states: Tensor | None, *, wanted: bool = True
    ) -> Tensor | None:
        """Return the gradient to a stream's states, if it is wanted and they learn, and add that of the head."""
        return self._products.backward(
            gradient,
            states,
            wanted=wanted and stream.states_learn,
            head=stream.head_gradient if stream.head_learns else None,
            stored_as=stream.stored_as,
        )

    def _rest_backward(self, rows: Mapping[TiledStates, slice], tile: Tensor) -> dict[TiledStates, Tensor]:
        """Return the gradient to each stream's states that comes from all other tokens, and add that to the heads."""
        assert self._rest is not None, "logits come first"
        found = {}
        parts = zip(rows, self._rest.split(_lengths(rows)), tile[:, -1].split(_lengths(rows)), strict=True)
        for stream, rest, of_rest in parts:
            if not stream.requires_grad:
                continue
            states = self._states({stream: rows[stream]})
            found[stream] = torch.zeros_like(states)
            for ids, part, gradient in self._products.rest_gradients(states, rest, of_rest):
                found[stream].addmm_(gradient, part)
                if stream.head_gradient is not None and stream.head_learns:
                    stream.head_gradient.add_others(ids, gradient, states)
        return found

    def _own(self, rows: Mapping[TiledStates, slice]) -> dict[TiledStates, slice]:
        return {stream: rows[stream] for stream in self._streams if stream in rows}

    def _states(self, rows: Mapping[TiledStates, slice]) -> Tensor:
        parts = [stream.states(some).to(self._dtype) for stream, some in rows.items()]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _lengths(rows: Mapping[TiledStates, slice]) -> list[int]:
    return [some.stop - some.start for some in rows.values()]
