"""Joining an affine projection with the head behind it, ``(h P^T) W^T = h (W P)^T``, where that is cheaper."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from dskd_components.engines.tiling.head_products import HeadProducts
from dskd_components.engines.tiling.stream import Stream
from dskd_components.head import Head

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.contracts.space import Space
    from dskd_components.meeting import Meeting, Unprojected
    from dskd_components.states import LMStates


def visiting_stream(meeting: Meeting, space: Space, budget: int) -> Stream:
    """Return the states that come to a space as a stream, by the cheapest way round.

    Args:
        meeting: the states of both models.
        space: where they come to.
        budget: bytes; half of it at most is for a joint matrix.
    """
    head = meeting.side(space.side).head.detach()
    if not _may_pay(meeting, space, head, budget):
        return Stream(*meeting.visitors(space))
    unprojected = meeting.unprojected(space)
    if unprojected is None:
        return Stream(*meeting.visitors(space))
    states = torch.cat([unprojected.states, unprojected.weights], 1)
    held = _bytes(meeting, space, head)
    if not _learns(unprojected):
        # The projection need not be in the graph: gradients go the short way too.
        return Stream(states, _joint(head, unprojected, states), held_bytes=held)
    if _saved(meeting, space, head, products=1) <= 0:
        return Stream(*meeting.visitors(space))
    # A projection that learns needs the gradient to its outcome, so only the logits go the short way.
    shortcut = Stream(states.detach(), _joint(head, unprojected, states))
    return Stream(*meeting.visitors(space), shortcut=shortcut, held_bytes=held)


def _may_pay(meeting: Meeting, space: Space, head: Head, budget: int) -> bool:
    if space.projector is None:
        return False
    return 2 * _bytes(meeting, space, head) <= budget and _saved(meeting, space, head, products=2) > 0


def _bytes(meeting: Meeting, space: Space, head: Head) -> int:
    width = _visitor(meeting, space).hidden_states.shape[-1] + 1
    return head.vocabulary_size * width * _visitor(meeting, space).hidden_states.itemsize


def _saved(meeting: Meeting, space: Space, head: Head, *, products: int) -> int:
    """Return the multiplications saved for each token of the vocabulary, less those that the joint matrix takes."""
    source = _visitor(meeting, space).hidden_states.shape[-1]
    rows = int(meeting.covered(space.side).sum())
    return products * rows * (head.hidden_size - source) - head.hidden_size * source


def _visitor(meeting: Meeting, space: Space) -> LMStates:
    return meeting.side("teacher" if space.side == "student" else "student")


def _learns(unprojected: Unprojected) -> bool:
    weight, bias = unprojected.affine
    return torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))


@torch.no_grad()
def _joint(head: Head, unprojected: Unprojected, states: Tensor) -> Head:
    """Return the head that reads unprojected states, each with the weight of the projection's bias behind it."""
    weight, bias = unprojected.affine
    column = torch.zeros_like(weight[:, :1]) if bias is None else bias[:, None]
    # [d_source + 1, d_target], which a head's product takes to [d_source + 1, V].
    projection = torch.cat([weight, column], 1).T.to(states.dtype)
    joint = states.new_empty(len(projection), head.vocabulary_size)
    rows = Head(head.weight, valid_vocabulary_size=head.valid_vocabulary_size)
    HeadProducts(rows, states.dtype, part_bytes=joint.numel() * joint.itemsize // 4).logits(projection, joint)
    bias = None if head.bias is None else head.bias[: head.vocabulary_size]
    return replace(head, weight=joint.T, bias=bias, valid_vocabulary_size=None)
