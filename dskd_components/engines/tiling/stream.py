"""`Stream`: hidden states that pass through a head tile by tile, and the gradients that come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dskd_components.engines.tiling.head_products import HeadGradient
from dskd_components.precision import upcast

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.head import Head


class Stream:
    """One model's states at some positions of a side, the head that reads them, and the gradients to both.

    Args:
        states: ``[N, d]``, part of the graph.
        head: the head.
        shortcut: other states and another head that give the same logits at less cost; gradients go the long way.
        held_bytes: memory of a matrix that was made for the stream.
    """

    def __init__(self, states: Tensor, head: Head, *, shortcut: Stream | None = None, held_bytes: int = 0) -> None:
        learning = torch.is_grad_enabled()
        self._states = upcast(states)
        self.head = head
        self.shortcut = shortcut
        self.held_bytes = held_bytes
        self.states = self._states.detach()
        self.complete = head.bias is None or not bool(head.bias.detach().isinf().any())
        """Whether no logit can be ``-inf``."""
        self.states_gradient = torch.empty_like(self.states) if learning and states.requires_grad else None
        """``[N, d]``, filled by tiles, where one is wanted."""
        self.head_gradient = HeadGradient(head, self.states.dtype) if learning else None

    def __len__(self) -> int:
        return len(self.states)

    @property
    def wanted(self) -> bool:
        """Whether any gradient is wanted."""
        return self.states_gradient is not None or (self.head_gradient is not None and self.head_gradient.wanted)

    @property
    def learned(self) -> list[tuple[Tensor, Tensor]]:
        """The tensors that a gradient was wanted for, each with its gradient."""
        pairs = [] if self.states_gradient is None else [(self._states, self.states_gradient)]
        return pairs + ([] if self.head_gradient is None else self.head_gradient.learned)

    def reads_like(self, other: Stream) -> bool:
        """Return whether both pass through the same tensors in the same way, so that one product serves them."""
        ours, theirs = self.head, other.head
        return (
            self.shortcut is other.shortcut is None
            and ours.weight.data_ptr() == theirs.weight.data_ptr()
            and ours.valid_weight.shape == theirs.valid_weight.shape
            and (ours.scale, ours.softcap) == (theirs.scale, theirs.softcap)
            and (None if ours.bias is None else ours.bias.data_ptr())
            == (None if theirs.bias is None else theirs.bias.data_ptr())
        )
