"""Streams whose projection is joined with the head behind it: logits are read from states that nobody has projected."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional as F

from dskd_components.engines.tiling.head_products import HeadProducts
from dskd_components.engines.tiling.projected_stream import ThroughProjection
from dskd_components.engines.tiling.stream import Stream

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.engines.workspace import Scratch
    from dskd_components.meeting import Unprojected
    from dskd_components.models.head import Head

ALIGNED: Final = 16
"""Numbers in a row of a joint matrix come in multiples of this: products with rows that begin anywhere are slower."""


class JoinedLogits(ThroughProjection):
    """Logits go the short way, gradients through the projected states' place, though these were never computed.

    Args:
        unprojected: the states and the projection, parts of the graph.
        head: the head behind the projection; it learns nothing here.
        part_bytes: memory for a widened part of the head.
        scratch: memory for the joint matrix.
    """

    def __init__(self, unprojected: Unprojected, head: Head, part_bytes: int, scratch: Scratch) -> None:
        super().__init__(_with_weights(unprojected), head, unprojected)
        self.reading_head = _joint(unprojected, head, self.dtype, part_bytes, scratch)
        self.joint_bytes = self.reading_head.weight.nbytes


class JoinedThroughout(Stream):
    """Logits and gradients go through the joint matrix; its own gradient becomes the projection's at the end.

    Args:
        unprojected: as in `JoinedLogits`.
        head: likewise.
        part_bytes: likewise.
        scratch: likewise.
    """

    def __init__(self, unprojected: Unprojected, head: Head, part_bytes: int, scratch: Scratch) -> None:
        states = _with_weights(unprojected)
        joint = _joint(unprojected, head, states.dtype, part_bytes, scratch)
        learns = torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in unprojected.affine)
        super().__init__(states, replace(joint, weight=joint.weight.requires_grad_(learns)), scratch=scratch)
        self.joint_bytes = joint.weight.nbytes * (2 if learns else 1)
        self._affine = unprojected.affine
        self._products = HeadProducts(head, self.dtype, part_bytes)

    @property
    def learned(self) -> list[tuple[Tensor, Tensor]]:
        """The tensors that a gradient was wanted for, each with its gradient."""
        found = []
        for tensor, gradient in super().learned:
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


def _with_weights(unprojected: Unprojected) -> Tensor:
    """Return ``[N, k]``: the states, behind them the weight of the projection's bias, and zeros."""
    states, weights, _ = unprojected
    return _widened(torch.cat([states, weights], 1))


@torch.no_grad()
def _joint(unprojected: Unprojected, head: Head, dtype: torch.dtype, part_bytes: int, scratch: Scratch) -> Head:
    """Return the head that reads states with the weight of the projection's bias behind them."""
    matrix, bias = unprojected.affine
    column = torch.zeros_like(matrix[:, :1]) if bias is None else bias[:, None]
    projection = _widened(torch.cat([matrix, column], 1).to(dtype))
    joint = HeadProducts(head, dtype, part_bytes).joined(projection, scratch)
    head_bias = None if head.bias is None else head.bias[: head.vocabulary_size]
    return replace(head, weight=joint, bias=head_bias, valid_vocabulary_size=None)


def _widened(tensor: Tensor) -> Tensor:
    return F.pad(tensor, (0, joint_width(tensor.shape[1] - 1) - tensor.shape[1]))
