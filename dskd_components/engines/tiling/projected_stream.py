"""Streams that know the affine projection their states go through, and give gradients to both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

from dskd_components.engines.tiling.projection_gradient import ProjectionGradient
from dskd_components.engines.tiling.stream import Stream

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.meeting import Unprojected
    from dskd_components.models.head import Head


class ThroughProjection(Stream):
    """A stream whose gradient comes to its projected states, and goes on to what was projected, and to the projection.

    Args:
        states: ``[N, k]``: what `reading_head` reads, a constant.
        head: the head behind the projection; it learns nothing here.
        unprojected: the states and the projection, parts of the graph.
    """

    def __init__(self, states: Tensor, head: Head, unprojected: Unprojected) -> None:
        super().__init__(states.detach(), head)
        self._projection_gradient = ProjectionGradient(unprojected, self.dtype)

    def set_gradient(self, rows: slice, gradient: Tensor) -> None:
        """Take the gradient to the projected states of some rows, ``[n, d_target]``."""
        self._projection_gradient.add(rows, gradient)

    @property
    def waiting_bytes(self) -> int:
        """Memory of the gradient to what was projected, which waits for the backward pass."""
        return self._projection_gradient.waiting_bytes

    @property
    def states_learn(self) -> bool:
        """Whether a gradient to the projected states is wanted."""
        return bool(self._projection_gradient.learned)

    @property
    def learned(self) -> list[tuple[Tensor, Tensor]]:
        """The tensors that a gradient was wanted for, each with its gradient."""
        return self._projection_gradient.learned


class ProjectedByTile(ThroughProjection):
    """States are projected as they are read: no more than a tile of them exists at the width behind the projection.

    Args:
        unprojected: the states and the projection, parts of the graph.
        head: the head behind the projection; it learns nothing here.
    """

    def __init__(self, unprojected: Unprojected, head: Head) -> None:
        super().__init__(unprojected.states, head, unprojected)
        self._weights = unprojected.weights.detach().to(self.dtype)
        matrix, bias = unprojected.affine
        self._matrix = matrix.detach().to(self.dtype)
        self._bias = None if bias is None else bias.detach().to(self.dtype)

    def states(self, rows: slice) -> Tensor:
        """Return ``[n, d_target]``: the projected states of some rows."""
        projected = F.linear(super().states(rows), self._matrix)
        return projected if self._bias is None else projected.addcmul_(self._weights[rows], self._bias)
