"""`HeadProducts`: the matrix products of one head, tile by tile, in full precision whatever the head is stored in."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor

from dskd_components.engines._tiling.compiling import call
from dskd_components.engines._tiling.half_products import (
    SPLIT_COLUMNS,
    add_product,
    column_parts,
    even,
    exact_parts,
    gradient_parts,
    reads_as_stored,
    split_columns,
    splits,
    stacked_parts,
    write_product,
)
from dskd_components.engines._tiling.products import CACHED_ROWS, add_outer, by_onednn, onednn
from dskd_components.engines._tiling.row_functions import Softcap, Split
from dskd_components.engines.workspace import in_large_pages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dskd_components.engines._tiling.products import Products
    from dskd_components.engines.workspace import Scratch
    from dskd_components.models.head import Head


OTHER_ROWS: Final = 1024
"""Of how many other tokens logits are made together, where all that a head is narrowed without are one outcome."""


def widened_bytes(head: Head, dtype: torch.dtype, products: Products) -> int:
    """Return how much memory the largest part of a weight takes that is widened at once; 0 where none is.

    Args:
        head: the head.
        dtype: what is computed in.
        products: how kernels are chosen; some read the weight as it is stored.
    """
    weight = head.valid_weight
    return (
        0
        if weight.dtype == dtype or splits(products, weight, dtype)
        else _cached_rows(weight) * weight.shape[1] * dtype.itemsize
    )


def numbers_beside(heads: Iterable[Head], products: Products) -> int:
    """Return how many numbers products may take beside logits, for each row: a part of what is read, and what is made.

    Args:
        heads: that the rows pass through.
        products: how kernels are chosen; PyTorch's own takes none.
    """
    heads = list(heads)
    # A part of the other tokens' logits, their gradient, and their share of the states' gradient.
    of_others = max(2 * OTHER_ROWS + head.hidden_size if head.has_rest else 0 for head in heads)
    if products == "torch":
        return of_others
    return of_others + max(_beside(head, products) for head in heads)


def split_numbers(heads: Iterable[Head], products: Products) -> int:
    """Return how many numbers the parts of a gradient take, for each row of the one stream that is split at a time.

    Args:
        heads: that the gradients go back through.
        products: how kernels are chosen.
    """
    most = 0
    for head in heads:
        weight = head.valid_weight
        columns = CACHED_ROWS if weight.device.type == "cpu" else SPLIT_COLUMNS
        # Two bfloat16 numbers take as much memory as one in float32.
        parts = gradient_parts(products, weight, torch.float32)
        most = max(most, math.ceil(parts * min(columns, len(weight)) / 2))
    return most


def _beside(head: Head, products: Products) -> int:
    if splits(products, head.valid_weight, torch.float32):
        # Two parts of the states' gradient, or three of the states.
        return 4 * head.hidden_size
    if head.weight.device.type != "cpu":
        return 0
    return _cached_rows(head.valid_weight) + max(_cached_rows(head.valid_weight), head.hidden_size)


def _cached_rows(weight: Tensor) -> int:
    return min(CACHED_ROWS, len(weight)) if weight.device.type == "cpu" else len(weight)


class HeadProducts:
    """Logits of a tile, and what their gradient is to hidden states, weight and bias.

    A weight in half precision is read as it is stored, where kernels can. Else it is widened a part at a time: a wide
    copy of all of it would outweigh the tile.

    Args:
        head: the head.
        dtype: what is computed in, float32 or float64.
        part_bytes: how much memory a widened part of the weight may take.
        products: how kernels are chosen.
        compiled: whether operations on single numbers are compiled.
    """

    def __init__(
        self,
        head: Head,
        dtype: torch.dtype,
        part_bytes: int,
        products: Products = "torch",
        *,
        compiled: bool = False,
    ) -> None:
        self._compiled = compiled
        self._even = even(head.weight.device)
        self._head = head
        self._dtype = dtype
        self._weight = head.valid_weight.detach()
        self._bias = None if head.bias is None else head.bias.detach()[: head.token_count].to(dtype)
        self._cached_rows = _cached_rows(self._weight)
        fitting = max(1, part_bytes // (self._weight.shape[1] * dtype.itemsize))
        self._part_rows = len(self._weight) if self._weight.dtype == dtype else min(self._cached_rows, fitting)
        self._products: Products = products
        self.reads_as_stored = reads_as_stored(products, self._weight, dtype)
        """Whether logits of states in the type of the weight are made of both as they are stored."""
        self.splits = splits(products, self._weight, dtype)
        """Whether all other states that the weight multiplies come in parts of its type."""
        self.gradient_parts = gradient_parts(products, self._weight, dtype)
        """In how many parts of its type a gradient comes; 0: it stays in full precision."""

    def logits(self, states: Tensor, out: Tensor, stored_as: torch.dtype | None = None) -> None:
        """Write the logits of states.

        Args:
            states: ``[n, d]``, in full precision.
            out: ``[n, V]``.
            stored_as: a type in half precision that holds all of the states exactly, if there is one.
        """
        everything = out
        if self._head.has_rest:
            out = out[:, : self._head.token_count]
        is_like_weight = stored_as == self._weight.dtype
        if self.splits or (self.reads_as_stored and is_like_weight):
            self._logits_as_stored([states.to(self._weight.dtype)] if is_like_weight else exact_parts(states), out)
        else:
            self._logits_in_parts(states, out)
        if self._head.scale != 1.0:
            out.mul_(self._head.scale)
        if self._head.softcap is not None:
            if self._compiled:
                call(Softcap(self._head.softcap), [out])
            else:
                out.div_(self._head.softcap).tanh_().mul_(self._head.softcap)
        if self._head.has_rest:
            everything[:, -1] = self._rest(states)

    def _logits_as_stored(self, states: list[Tensor], out: Tensor) -> None:
        """Write the product of the weight and states that come in parts, and the bias."""
        *larger, smallest = states
        for columns in column_parts(len(self._weight), len(self._weight), even=self._even):
            write_product(out[:, columns], smallest, self._weight[columns].T)
            for part in reversed(larger):
                add_product(out[:, columns], part, self._weight[columns].T)
        if self._bias is not None:
            out.add_(self._bias)

    def _logits_in_parts(self, states: Tensor, out: Tensor) -> None:
        """Write the product of states and of the weight, a part of it at a time, and the bias."""
        for columns, part in self._parts(min(self._cached_rows, self._part_rows)):
            if by_onednn(self._products, "logits", states, part, out=out[:, columns]):
                out[:, columns] = onednn(states, part, None if self._bias is None else self._bias[columns])
            elif self._bias is None:
                torch.mm(states, part.T, out=out[:, columns])
            else:
                torch.addmm(self._bias[columns], states, part.T, out=out[:, columns])
            del part  # before the next one is widened

    def _rest(self, states: Tensor) -> Tensor:
        """Return ``[n]``: the logarithm of the sum over all other tokens."""
        found = states.new_full((len(states),), -math.inf)
        for _, _, logits in self._of_others(states):
            torch.logaddexp(found, logits.logsumexp(1), out=found)
        return found

    def rest_gradients(self, states: Tensor, rest: Tensor, gradient: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield for some other tokens at a time what comes to them from the gradient to the last logit.

        Args:
            states: ``[n, d]``.
            rest: ``[n]``: the last logit.
            gradient: ``[n]``: the gradient to it.

        Yields:
            Their ids ``[r]`` in the whole vocabulary, their rows of the weight ``[r, d]``, and the gradient ``[n, r]``
            to the product of states and these, plus bias.
        """
        floor = rest.clamp_min(torch.finfo(rest.dtype).min)[:, None]  # where all others are ruled out
        for ids, part, logits in self._of_others(states):
            found = (logits - floor).exp_().mul_(gradient[:, None])
            if self._head.softcap is not None:
                found.mul_(logits.div_(self._head.softcap).square_().neg_().add_(1))
            yield ids, part, found.mul_(self._head.scale) if self._head.scale != 1.0 else found

    def _of_others(self, states: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield some other tokens at a time: their ids, their rows of the weight, and their logits ``[n, r]``."""
        head = self._head
        assert head.whole is not None, "a narrowed head"
        assert head.subset is not None, "a narrowed head"
        weight, bias = head.whole.weight.detach(), head.whole.bias
        for ids in head.subset.on(weight.device).other_ids.split(OTHER_ROWS):
            part = weight.index_select(0, ids).to(self._dtype)
            logits = states @ part.T
            if bias is not None:
                logits.add_(bias.detach().index_select(0, ids).to(self._dtype))
            if head.scale != 1.0:
                logits.mul_(head.scale)
            if head.softcap is not None:
                logits.div_(head.softcap).tanh_().mul_(head.softcap)
            yield ids, part, logits

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

    def backward(
        self,
        gradient: Tensor,
        states: Tensor | None,
        *,
        wanted: bool,
        head: HeadGradient | None,
        stored_as: torch.dtype | None = None,
    ) -> Tensor | None:
        """Return the gradient to the states, and add what the head gets.

        Args:
            gradient: ``[n, V]``: that to the product of states and weight, plus bias.
            states: ``[n, d]``, in full precision; needed for the head alone.
            wanted: whether the states learn.
            head: where the head's gradient is summed; None: it gets none.
            stored_as: as in `logits`.

        Returns:
            ``[n, d]``; None where it is not wanted.
        """
        if not self.gradient_parts:
            found = self.states_gradient(gradient) if wanted else None
            if head is not None and states is not None:
                head.add(gradient, states, self._products)
            return found
        gradient, stacked = gradient[:, : self._head.token_count], None
        rows = None if head is None or states is None else _HeadRows.of(states, stored_as, self.gradient_parts)
        most = split_columns(self._weight, len(gradient))
        for columns in column_parts(len(self._weight), most, even=self._even):
            parts = self._parts_of(gradient[:, columns])
            if wanted and stacked is None:
                stacked = gradient.new_empty(len(parts), self._weight.shape[1])
                write_product(stacked, parts, self._weight[columns])
            elif stacked is not None:
                add_product(stacked, parts, self._weight[columns])
            if head is not None and rows is not None:
                head.add_columns(columns, parts, rows)
        if head is not None:
            head.end_columns(gradient)
        if stacked is None or self.gradient_parts == 1:
            return stacked
        both: Tensor = stacked.unflatten(0, (self.gradient_parts, -1)).sum(0)
        return both

    def _parts_of(self, gradient: Tensor) -> Tensor:
        """Return ``[parts n, m]``, bfloat16, as `stacked_parts` does."""
        if self._compiled and self.gradient_parts == 2:
            [by_row] = call(Split(), [gradient])
            return by_row.transpose(0, 1).flatten(0, 1)
        return stacked_parts(gradient, self.gradient_parts)

    def joined(self, projection: Tensor, scratch: Scratch) -> Tensor:
        """Return ``[V, k]``: the product of the weight and a matrix ``[d, k]``, in scratch memory."""
        projection = projection.to(self._dtype)
        joint = scratch.matrix(len(self._weight), projection.shape[1], dtype=self._dtype, device=projection.device)
        small = min(self._cached_rows, self._part_rows)
        by_parts = by_onednn(self._products, "states", self._weight[:small].to(self._dtype), projection, joint[:small])
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
            # A gradient may have a column behind those of these rows, that of all other tokens together.
            columns = slice(start, min(start + rows, len(self._weight)))
            yield columns, self._weight[columns].to(self._dtype)


class _HeadRows(NamedTuple):
    """States as they are multiplied with the parts of a gradient.

    Args:
        rounded: ``[parts n, d]``, bfloat16: the states rounded, once for each part.
        rest: ``[n, d]``: what was rounded off; None where nothing was, or where gradients are rounded as well.
    """

    rounded: Tensor
    rest: Tensor | None

    @classmethod
    def of(cls, states: Tensor, stored_as: torch.dtype | None, parts: int) -> _HeadRows:
        if stored_as == torch.bfloat16 or parts == 1:
            return cls(states.to(torch.bfloat16).repeat(parts, 1), None)
        rounded, rest = stacked_parts(states).split(len(states))
        return cls(rounded.repeat(parts, 1), rest)


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
            self._weight = in_large_pages(torch.empty_like(head.weight, dtype=dtype))
        elif head.weight.requires_grad and scratch is not None:
            self._weight = scratch.matrix(*head.weight.shape, dtype=dtype, device=head.weight.device)
        self._is_empty = True
        self._bias: Tensor | None = None
        if head.bias is not None and head.bias.requires_grad:
            self._bias = torch.zeros_like(head.bias, dtype=dtype)
        whole = head.whole if head.has_rest else None
        self._of_whole: list[tuple[Tensor, Tensor]] = [
            (tensor, torch.zeros_like(tensor, dtype=dtype))
            for tensor in (() if whole is None else (whole.weight, whole.bias))
            if tensor is not None and tensor.requires_grad
        ]

    @property
    def requires_grad(self) -> bool:
        """Whether any of the head's tensors learns."""
        return self._weight is not None or self._bias is not None or bool(self._of_whole)

    @property
    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """The tensors that learn, each with its gradient."""
        pairs = []
        if self._weight is not None:
            pairs.append((self._head.weight, self._weight.zero_() if self._is_empty else self._weight))
        if self._head.bias is not None and self._bias is not None:
            pairs.append((self._head.bias, self._bias))
        return pairs + self._of_whole

    def add_others(self, ids: Tensor, gradient: Tensor, states: Tensor) -> None:
        """Add what a tile gives to tokens that the head is narrowed without.

        Args:
            ids: ``[r]``, int64: the tokens.
            gradient: ``[n, r]``: the gradient to the product of states and their rows, plus bias.
            states: ``[n, d]``: the hidden states of the tile.
        """
        for tensor, total in self._of_whole:
            total.index_add_(0, ids, gradient.T @ states if tensor.ndim == 2 else gradient.sum(0))

    def add(self, gradient: Tensor, states: Tensor, products: Products = "torch") -> None:
        """Add what a tile gives.

        Args:
            gradient: ``[n, V]``: the gradient to the product of states and weight, plus bias.
            states: ``[n, d]``: the hidden states of the tile.
            products: how kernels are chosen.
        """
        vocabulary = self._head.token_count
        gradient = gradient[:, :vocabulary]
        if self._weight is not None:
            add_outer(products, self._weight[:vocabulary], gradient, states, is_empty=self._is_empty)
        self.end_columns(gradient)

    def add_columns(self, columns: slice, parts: Tensor, rows: _HeadRows) -> None:
        """Add what a tile gives to some tokens, from operands in parts; `end_columns` comes after the last.

        Args:
            columns: which tokens.
            parts: ``[parts n, m]``, bfloat16: the gradient to the product of states and their rows of the weight.
            rows: the hidden states of the tile.
        """
        if self._weight is None:
            return
        total = self._weight[columns]
        if self._is_empty:
            write_product(total, parts.T, rows.rounded)
        else:
            add_product(total, parts.T, rows.rounded)
        if rows.rest is not None:
            add_product(total, parts[: len(rows.rest)].T, rows.rest)

    def end_columns(self, gradient: Tensor) -> None:
        """Add what a tile gives to the bias, once the weight has its part.

        Args:
            gradient: ``[n, token_count]``, as in `add`.
        """
        vocabulary = self._head.token_count
        if self._weight is not None and self._is_empty:
            self._weight[vocabulary:].zero_()
            self._is_empty = False
        if self._bias is not None:
            self._bias[:vocabulary].add_(gradient.sum(0))
