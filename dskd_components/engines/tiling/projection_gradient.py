"""`ProjectionGradient`: what the gradient to projected states means for a projection, and for what it projects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.meeting import Unprojected


class ProjectionGradient:
    """Gradients to states, their weights and an affine projection, summed over tiles in full precision.

    Args:
        unprojected: the states ``h`` with their weights ``w``, and the projection ``h W^T + w b``.
        dtype: what is summed in.
    """

    def __init__(self, unprojected: Unprojected, dtype: torch.dtype) -> None:
        self._states, self._weights, (self._matrix, self._bias) = unprojected
        learning = torch.is_grad_enabled()
        self._of_states, self._of_weights, self._of_matrix, self._of_bias = (
            torch.zeros_like(tensor, dtype=dtype) if learning and tensor is not None and tensor.requires_grad else None
            for tensor in (self._states, self._weights, self._matrix, self._bias)
        )
        self._dtype = dtype

    @property
    def waiting_bytes(self) -> int:
        """Memory of the gradient to the states."""
        return 0 if self._of_states is None else self._of_states.nbytes

    @property
    def learned(self) -> list[tuple[Tensor, Tensor]]:
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
            torch.mm(gradient, self._matrix.detach().to(self._dtype), out=self._of_states[rows])
        if self._of_matrix is not None:
            self._of_matrix.addmm_(gradient.T, states)
        if self._of_bias is not None:
            self._of_bias.addmv_(gradient.T, weights[:, 0])
        if self._of_weights is not None and self._bias is not None:
            torch.mv(gradient, self._bias.detach().to(self._dtype), out=self._of_weights[rows, 0])
