"""`TiledStates`: hidden states that pass through a head tile by tile, and the gradients that come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dskd_components.engines._tiling.head_products import HeadGradient
from dskd_components.models.precision import upcast

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.engines.workspace import Scratch
    from dskd_components.models.head import Head


class TiledStates:
    """One model's states at some positions of a side, the head that reads them, and the gradients to both.

    Args:
        states: ``[P, d]``, part of the graph.
        head: the head.
        all_finite: whether no logit can be ``-inf``.
        positions: ``[N]``, int64: which of the states, in their order. None: all.
        scratch: memory for the gradient to the head's weight, where nobody gets it.
        stored_as: a type in half precision that holds all of the states exactly, if there is one.
    """

    def __init__(
        self,
        states: Tensor,
        head: Head,
        *,
        all_finite: bool,
        positions: Tensor | None = None,
        scratch: Scratch | None = None,
        stored_as: torch.dtype | None = None,
    ) -> None:
        learning = torch.is_grad_enabled()
        self._states = upcast(states)
        self._positions = positions
        self._gradient: Tensor | None = None
        if learning and states.requires_grad:
            # States that are at none of the positions get nothing.
            self._gradient = torch.empty_like(self._states) if positions is None else torch.zeros_like(self._states)
        self.shards = head.shards
        """How the head's tokens are cut over ranks; None: they are all here."""
        self.head = head = head.local
        """The head of the tokens that are here."""
        self.reading_head = head
        """The head that makes logits of `states`."""
        self.head_gradient = HeadGradient(head, self._states.dtype, scratch) if learning else None
        self.joint_bytes = 0
        """Memory of matrices that were made for the stream: a projection's own, or joined with the head."""
        self.all_finite = all_finite
        """Whether no logit can be ``-inf``."""
        self.stored_as = stored_as
        """A type in half precision that holds all of `states` exactly, if there is one."""

    def __len__(self) -> int:
        return len(self._states) if self._positions is None else len(self._positions)

    @property
    def dtype(self) -> torch.dtype:
        """Of the states, in full precision."""
        return self._states.dtype

    def states(self, rows: slice) -> Tensor:
        """Return ``[n, d]``: the states of some rows, as `reading_head` reads them."""
        states = self._states.detach()
        return states[rows] if self._positions is None else states[self._positions[rows]]

    def set_gradient(self, rows: slice, gradient: Tensor) -> None:
        """Take the gradient to the states of some rows as `head` reads them, ``[n, d]``."""
        assert self._gradient is not None, "a stream whose states learn"
        self._gradient[rows if self._positions is None else self._positions[rows]] = gradient

    @property
    def row_bytes(self) -> int:
        """Memory of the states and of what waits for the backward pass."""
        return self._states.nbytes + self.gradient_bytes

    @property
    def gradient_bytes(self) -> int:
        """Memory of the gradient to the states, which waits for the backward pass."""
        return 0 if self._gradient is None else self._gradient.nbytes

    @property
    def states_learn(self) -> bool:
        """Whether a gradient to the states is wanted."""
        return self._gradient is not None

    @property
    def head_learns(self) -> bool:
        """Whether a gradient to the head is wanted."""
        return self.head_gradient is not None and self.head_gradient.requires_grad

    @property
    def requires_grad(self) -> bool:
        """Whether any gradient is wanted."""
        return self.states_learn or self.head_learns

    @property
    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """The tensors that a gradient was wanted for, each with its gradient."""
        pairs = [] if self._gradient is None else [(self._states, self._gradient)]
        return pairs + ([] if self.head_gradient is None else self.head_gradient.gradients)

    def gradients_of_all_ranks(self) -> list[tuple[Tensor, Tensor]]:
        """Return the tensors that a gradient was wanted for, each with its gradient from all tokens.

        Where ranks have cut the head and have the same rows, each has gone through its own tokens alone; all of them
        call this. The gradient of a part of the head belongs to its rank.
        """
        shards = self.shards
        if shards is None or not shards.same_rows:
            return self.gradients
        of_head = (self.head.weight, self.head.bias)
        return [
            (tensor, gradient if any(tensor is part for part in of_head) else shards.total(gradient))
            for tensor, gradient in self.gradients
        ]

    def reads_like(self, other: TiledStates) -> bool:
        """Return whether both pass through the same tensors in the same way, so that one product serves them."""
        ours, theirs = self.head, other.head
        return (
            self.reading_head is ours
            and other.reading_head is theirs
            and ours.weight.data_ptr() == theirs.weight.data_ptr()
            and ours.valid_weight.shape == theirs.valid_weight.shape
            and (ours.scale, ours.softcap) == (theirs.scale, theirs.softcap)
            and (None if ours.bias is None else ours.bias.data_ptr())
            == (None if theirs.bias is None else theirs.bias.data_ptr())
            and ours.has_rest == theirs.has_rest
        )
