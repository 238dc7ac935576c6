"""`HeadProducts`: the matrix products of one head, tile by tile, in full precision whatever the head is stored in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dskd_components.engines._tiling.products import CACHED_ROWS, add_outer, by_onednn, onednn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dskd_components.engines._tiling.products import Products
    from dskd_components.engines.workspace import Scratch
    from dskd_components.models.head import Head


def widened_bytes(head: Head, dtype: torch.dtype) -> int:
    """Return how much memory the largest part of a weight takes that is widened at once; 0 where it is wide already.

    Args:
        head: the head.
        dtype: what is computed in.
    """
    weight = head.valid_weight
    return 0 if weight.dtype == dtype else _cached_rows(weight) * weight.shape[1] * dtype.itemsize


def numbers_beside(heads: Iterable[Head], products: Products) -> int:
    """Return how many numbers products may take beside logits, for each row: a part of what is read, and what is made.

    Args:
        heads: that the rows pass through.
        products: how kernels are chosen; PyTorch's own takes none.
    """
    if products == "torch":
        return 0
    return max(
        _cached_rows(head.valid_weight) + max(_cached_rows(head.valid_weight), head.hidden_size)
        if head.weight.device.type == "cpu"
        else 0
        for head in heads
    )


def _cached_rows(weight: Tensor) -> int:
    return min(CACHED_ROWS, len(weight)) if weight.device.type == "cpu" else len(weight)


class HeadProducts:
    """Logits of a tile, and what their gradient is to hidden states, weight and bias.

    A weight in half precision is widened a part at a time: a wide copy of all of it would outweigh the tile.

    Args:
        head: the head.
        dtype: what is computed in, float32 or float64.
        part_bytes: how much memory a widened part of the weight may take.
        products: how kernels are chosen.
    """

    def __init__(self, head: Head, dtype: torch.dtype, part_bytes: int, products: Products = "torch") -> None:
        self._head = head
        self._dtype = dtype
        self._weight = head.valid_weight.detach()
        self._bias = None if head.bias is None else head.bias.detach()[: head.vocabulary_size].to(dtype)
        self._cached_rows = _cached_rows(self._weight)
        fitting = max(1, part_bytes // (self._weight.shape[1] * dtype.itemsize))
        self._part_rows = len(self._weight) if self._weight.dtype == dtype else min(self._cached_rows, fitting)
        self._products: Products = products

    def logits(self, states: Tensor, out: Tensor) -> None:
        """Write the logits of ``[n, d]`` states to ``[n, V]``."""
        for columns, part in self._parts(min(self._cached_rows, self._part_rows)):
            if by_onednn(self._products, "logits", states, part):
                out[:, columns] = onednn(states, part, None if self._bias is None else self._bias[columns])
            elif self._bias is None:
                torch.mm(states, part.T, out=out[:, columns])
            else:
                torch.addmm(self._bias[columns], states, part.T, out=out[:, columns])
            del part  # before the next one is widened
        if self._head.scale != 1.0:
            out.mul_(self._head.scale)
        if self._head.softcap is not None:
            out.div_(self._head.softcap).tanh_().mul_(self._head.softcap)

    def states_gradient(self, gradient: Tensor) -> Tensor:
        """Return ``[n, d]``: the gradient to the states, from ``[n, V]``, that of their product with the weight."""
        found: Tensor | None = None
        small = min(self._cached_rows, self._part_rows)
        columns, part = next(self._parts(small))
        by_parts = by_onednn(self._products, "states", gradient[:, columns], part)
        del part
        for columns, part in self._parts(small if by_parts else self._part_rows):
            if by_parts:
                product = onednn(gradient[:, columns], part.T)
                found = product if found is None else found.add_(product)
            elif found is None:
                found = gradient[:, columns] @ part
            else:
                found.addmm_(gradient[:, columns], part)
            del part
        assert found is not None, "a head has at least one row"
        return found

    def joined(self, projection: Tensor, scratch: Scratch) -> Tensor:
        """Return ``[V, k]``: the product of the weight and a matrix ``[d, k]``, in scratch memory."""
        projection = projection.to(self._dtype)
        joint = scratch.matrix(len(self._weight), projection.shape[1], dtype=self._dtype, device=projection.device)
        small = min(self._cached_rows, self._part_rows)
        by_parts = by_onednn(self._products, "states", self._weight[:small].to(self._dtype), projection)
        for rows, part in self._parts(small if by_parts else self._part_rows):
            if by_parts:
                joint[rows] = onednn(part, projection.T)
            else:
                torch.mm(part, projection, out=joint[rows])
            del part
        return joint

    def _parts(self, rows: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield so many rows of the weight at a time, in full precision; the last ones may be fewer."""
        for start in range(0, len(self._weight), rows):
            columns = slice(start, start + rows)
            yield columns, self._weight[columns].to(self._dtype)


class HeadGradient:
    """The gradient to a head's own tensors, summed over tiles in full precision.

    Args:
        head: the head.
        dtype: what is summed in.
        scratch: memory for the weight's gradient, where it will not leave the engine.
    """

    def __init__(self, head: Head, dtype: torch.dtype, scratch: Scratch | None = None) -> None:
        self._head = head
        self._weight: Tensor | None = None
        if head.weight.requires_grad and scratch is None:
            self._weight = torch.empty_like(head.weight, dtype=dtype)
        elif head.weight.requires_grad and scratch is not None:
            self._weight = scratch.matrix(*head.weight.shape, dtype=dtype, device=head.weight.device)
        self._is_empty = True
        self._bias: Tensor | None = None
        if head.bias is not None and head.bias.requires_grad:
            self._bias = torch.zeros_like(head.bias, dtype=dtype)

    @property
    def requires_grad(self) -> bool:
        """Whether any of the head's tensors learns."""
        return self._weight is not None or self._bias is not None

    @property
    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """The tensors that learn, each with its gradient."""
        pairs = []
        if self._weight is not None:
            pairs.append((self._head.weight, self._weight.zero_() if self._is_empty else self._weight))
        if self._head.bias is not None and self._bias is not None:
            pairs.append((self._head.bias, self._bias))
        return pairs

    def add(self, gradient: Tensor, states: Tensor, products: Products = "torch") -> None:
        """Add what a tile gives.

        Args:
            gradient: ``[n, V]``: the gradient to the product of states and weight, plus bias.
            states: ``[n, d]``: the hidden states of the tile.
            products: how kernels are chosen.
        """
        vocabulary = self._head.vocabulary_size
        if self._weight is not None:
            add_outer(products, self._weight[:vocabulary], gradient, states, is_empty=self._is_empty)
            if self._is_empty:
                self._weight[vocabulary:].zero_()
                self._is_empty = False
        if self._bias is not None:
            self._bias[:vocabulary].add_(gradient.sum(0))
