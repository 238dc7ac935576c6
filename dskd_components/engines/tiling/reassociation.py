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


def visiting_stream(meeting: Meeting, space: Space, budget: int, *, recompute: bool) -> Stream:
    """Return the states that come to a space as a stream, by the cheapest way round.

    Args:
        meeting: the states of both models.
        space: where they come to.
        budget: bytes; half of it at most is for a joint matrix.
        recompute: as in `Meeting.visitors`.
    """
    unprojected = _worth_joining(meeting, space, budget)
    if unprojected is None:
        return Stream(*meeting.visitors(space, recompute=recompute))
    states = torch.cat([unprojected.states, unprojected.weights], 1)
    joint, held = _joint(meeting.side(space.side).head.detach(), unprojected, states), _joint_bytes(meeting, space)
    if not _learns(unprojected):
        # The projection need not be in the graph: gradients go the short way too.
        return Stream(states, joint, held_bytes=held)
    # A projection that learns needs the gradient to its outcome, so only the logits go the short way.
    visitors = meeting.visitors(space, recompute=recompute)
    return Stream(*visitors, shortcut=Stream(states.detach(), joint), held_bytes=held)


def _worth_joining(meeting: Meeting, space: Space, budget: int) -> Unprojected | None:
    """Return the visitors before their projection, if joining it with the head saves more than it costs."""
    # The most that can be saved first: what comes after it may cost a product itself.
    if space.projector is None or 2 * _joint_bytes(meeting, space) > budget or _saved(meeting, space, products=2) <= 0:
        return None
    unprojected = meeting.unprojected(space)
    if unprojected is None or not _learns(unprojected):
        return unprojected
    return unprojected if _saved(meeting, space, products=1) > 0 else None


def _saved(meeting: Meeting, space: Space, *, products: int) -> int:
    """Return the multiplications saved for each token of the vocabulary, less those that the joint matrix takes."""
    source, target = meeting.visitor(space).head.hidden_size, meeting.side(space.side).head.hidden_size
    rows = int(meeting.covered(space.side).sum())
    return products * rows * (target - source) - target * source


def _joint_bytes(meeting: Meeting, space: Space) -> int:
    visitor = meeting.visitor(space)
    numbers = meeting.side(space.side).head.vocabulary_size * (visitor.head.hidden_size + 1)
    return numbers * visitor.hidden_states.itemsize


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
    plain = Head(head.weight, valid_vocabulary_size=head.valid_vocabulary_size)
    HeadProducts(plain, states.dtype, part_bytes=joint.numel() * joint.itemsize // 4).logits(projection, joint)
    bias = None if head.bias is None else head.bias[: head.vocabulary_size]
    return replace(head, weight=joint.T, bias=bias, valid_vocabulary_size=None)
