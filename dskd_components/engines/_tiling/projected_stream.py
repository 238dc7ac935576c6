"""Streams that know the affine projection their states go through, and give gradients to both."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional as F

from dskd_components.engines._tiling.head_products import HeadProducts
from dskd_components.engines._tiling.products import add_outer, by_onednn, onednn, write_through
from dskd_components.engines._tiling.tiled_states import TiledStates
from dskd_components.models.precision import upcast

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.engines._tiling.products import Products
    from dskd_components.engines.aligned_batch import AffineInput
    from dskd_components.engines.workspace import Scratch
    from dskd_components.models.head import Head


class ProjectionGradient:
    """Gradients to states, their weights and an affine projection, summed over tiles in full precision.

    Args:
        affine_input: the states ``h`` with their weights ``w``, and the projection ``h W^T + w b``.
        dtype: what is summed in.
        products: how kernels are chosen.
    """

    def __init__(self, affine_input: AffineInput, dtype: torch.dtype, products: Products) -> None:
        self._states, self._weights, (self._matrix, self._bias) = affine_input
        learning = torch.is_grad_enabled()
        self._of_states, self._of_weights, self._of_matrix, self._of_bias = (
            torch.zeros_like(tensor, dtype=dtype) if learning and tensor is not None and tensor.requires_grad else None
            for tensor in (self._states, self._weights, self._matrix, self._bias)
        )
        self._dtype = dtype
        self._products = products

    @property
    def gradient_bytes(self) -> int:
        """Memory of the gradient to the states."""
        return 0 if self._of_states is None else self._of_states.nbytes

    @property
    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """The tensors that learn, each with its gradient."""
        tensors = (self._states, self._weights, self._matrix, self._bias)
        gradients = (self._of_states, self._of_weights, self._of_matrix, self._of_bias)
        return [
            (tensor, gradient)
            for tensor, gradient in zip(tensors, gradients, strict=True)
            if tensor is not None and gradient is not None
        ]

    def add(self, rows: slice, gradient: Tensor) -> None:
        """Add what some rows give.

        Args:
            rows: which of the states.
            gradient: ``[n, d_target]``: the gradient to these states once they are projected.
        """
        states, weights = self._states.detach()[rows].to(self._dtype), self._weights.detach()[rows].to(self._dtype)
        if self._of_states is not None:
            matrix = self._matrix.detach().to(self._dtype)
            write_through(self._products, gradient, matrix, out=self._of_states[rows])
        if self._of_matrix is not None:
            add_outer(self._products, self._of_matrix, gradient, states, is_empty=False)
        if self._of_bias is not None:
            self._of_bias.addmv_(gradient.T, weights[:, 0])
        if self._of_weights is not None and self._bias is not None:
            torch.mv(gradient, self._bias.detach().to(self._dtype), out=self._of_weights[rows, 0])


class ThroughProjection(TiledStates):
    """A stream whose gradient comes to its projected states, and goes on to what was projected, and to the projection.

    Args:
        states: ``[N, k]``: what `reading_head` reads, a constant.
        head: the head behind the projection; it learns nothing here.
        affine_input: the states and the projection, parts of the graph.
        all_finite: whether no logit can be ``-inf``.
        products: how kernels are chosen.
    """

    def __init__(
        self, states: Tensor, head: Head, affine_input: AffineInput, *, all_finite: bool, products: Products
    ) -> None:
        super().__init__(states.detach(), head, all_finite=all_finite)
        self.joint_bytes = affine_input.made_bytes
        self._projection_gradient = ProjectionGradient(affine_input, self.dtype, products)

    def set_gradient(self, rows: slice, gradient: Tensor) -> None:
        """Take the gradient to the projected states of some rows, ``[n, d_target]``."""
        self._projection_gradient.add(rows, gradient)

    @property
    def gradient_bytes(self) -> int:
        """Memory of the gradient to what was projected, which waits for the backward pass."""
        return self._projection_gradient.gradient_bytes

    @property
    def states_learn(self) -> bool:
        """Whether a gradient to the projected states is wanted."""
        return bool(self._projection_gradient.gradients)

    @property
    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """The tensors that a gradient was wanted for, each with its gradient."""
        return self._projection_gradient.gradients


class ProjectedByTile(ThroughProjection):
    """States are projected as they are read: no more than a tile of them exists at the width behind the projection.

    Args:
        affine_input: the states and the projection, parts of the graph.
        head: the head behind the projection; it learns nothing here.
        all_finite: whether no logit can be ``-inf``.
        products: how kernels are chosen.
    """

    def __init__(self, affine_input: AffineInput, head: Head, *, all_finite: bool, products: Products) -> None:
        super().__init__(affine_input.states, head, affine_input, all_finite=all_finite, products=products)
        self._products: Products = products
        self._weights = affine_input.weights.detach().to(self.dtype)
        matrix, bias = affine_input.affine
        self._matrix = matrix.detach().to(self.dtype)
        self._bias = None if bias is None else bias.detach().to(self.dtype)

    def states(self, rows: slice) -> Tensor:
        """Return ``[n, d_target]``: the projected states of some rows."""
        states = super().states(rows)
        by_other = by_onednn(self._products, "logits", states, self._matrix)
        projected = onednn(states, self._matrix) if by_other else F.linear(states, self._matrix)
        return projected if self._bias is None else projected.addcmul_(self._weights[rows], self._bias)


ALIGNED: Final = 16
"""Numbers in a row of a joint matrix come in multiples of this: products with rows that begin anywhere are slower."""


class JoinedLogits(ThroughProjection):
    """Logits go the short way, gradients through the projected states' place, though these were never computed.

    Args:
        affine_input: the states and the projection, parts of the graph.
        head: the head behind the projection; it learns nothing here.
        part_bytes: memory for a widened part of the head.
        scratch: memory for the joint matrix.
        all_finite: whether no logit can be ``-inf``.
        products: how kernels are chosen.
    """

    def __init__(
        self,
        affine_input: AffineInput,
        head: Head,
        part_bytes: int,
        scratch: Scratch,
        *,
        all_finite: bool,
        products: Products,
    ) -> None:
        super().__init__(_with_weights(affine_input), head, affine_input, all_finite=all_finite, products=products)
        reading = HeadProducts(self.head, self.dtype, part_bytes, products)
        self.reading_head = _joint(affine_input, reading, self.head, scratch)
        self.joint_bytes += self.reading_head.weight.nbytes


class JoinedThroughout(TiledStates):
    """Logits and gradients go through the joint matrix; its own gradient becomes the projection's at the end.

    Args:
        affine_input: the states and the projection, parts of the graph.
        head: the head behind the projection; it learns nothing here.
        part_bytes: memory for a widened part of the head.
        scratch: memory for the joint matrix and its gradient.
        all_finite: whether no logit can be ``-inf``.
        products: how kernels are chosen.
    """

    def __init__(
        self,
        affine_input: AffineInput,
        head: Head,
        part_bytes: int,
        scratch: Scratch,
        *,
        all_finite: bool,
        products: Products,
    ) -> None:
        states = _with_weights(affine_input)
        self._products = HeadProducts(head.local, upcast(states).dtype, part_bytes, products)
        joint = _joint(affine_input, self._products, head.local, scratch)
        learns = torch.is_grad_enabled() and any(
            part is not None and part.requires_grad for part in affine_input.affine
        )
        super().__init__(
            states, replace(joint, weight=joint.weight.requires_grad_(learns)), all_finite=all_finite, scratch=scratch
        )
        self.shards = head.shards
        self.joint_bytes = affine_input.made_bytes + joint.weight.nbytes * (2 if learns else 1)
        self._affine = affine_input.affine

    @property
    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """The tensors that a gradient was wanted for, each with its gradient."""
        found = []
        for tensor, gradient in super().gradients:
            if tensor is self.head.weight:
                of_projection = self._products.states_gradient(gradient.T).T
                matrix, bias = self._affine
                width = matrix.shape[1]
                if matrix.requires_grad:
                    found.append((matrix, of_projection[:, :width]))
                if bias is not None and bias.requires_grad:
                    found.append((bias, of_projection[:, width]))
            else:
                found.append((tensor, gradient))
        return found


def joint_width(source: int) -> int:
    """Return the width of a joint matrix for states of some width: room for the bias, and rows that begin aligned.

    Args:
        source: width of the states.

    Examples:
        >>> joint_width(768), joint_width(15)
        (784, 16)
    """
    return math.ceil((source + 1) / ALIGNED) * ALIGNED


def _with_weights(affine_input: AffineInput) -> Tensor:
    """Return ``[N, k]``: the states, behind them the weight of the projection's bias, and zeros."""
    states, weights, _ = affine_input
    return _widened(torch.cat([states, weights], 1))


@torch.no_grad()
def _joint(affine_input: AffineInput, products: HeadProducts, head: Head, scratch: Scratch) -> Head:
    """Return the head that reads states with the weight of the projection's bias behind them."""
    matrix, bias = affine_input.affine
    column = torch.zeros_like(matrix[:, :1]) if bias is None else bias[:, None]
    joint = products.joined(_widened(torch.cat([matrix, column], 1)), scratch)
    head_bias = None if head.bias is None else head.bias[: head.token_count]
    return replace(head, weight=joint, bias=head_bias, valid_vocabulary_size=None)


def _widened(tensor: Tensor) -> Tensor:
    return F.pad(tensor, (0, joint_width(tensor.shape[1] - 1) - tensor.shape[1]))
