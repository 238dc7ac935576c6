"""Laws of distances and spaces that build modules, tried in a loss: what is learned, saved, and computed in tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from dskd_components.components.group_space import GroupSpace
from dskd_components.testing.expectation import expect, expect_close, expect_equal, expect_finite
from dskd_components.testing.law import law
from dskd_components.testing.laws.building import (
    batch_and_loss,
    expect_engines_to_agree,
    has_parameters,
    loss_of,
    seeds,
    spec_of,
)

if TYPE_CHECKING:
    from dskd_components.components.distance import Distance
    from dskd_components.components.space import Space
    from dskd_components.loss.dskd_loss import DSKDLoss

TRIES: Final = 6
"""How many batches are looked at before a parameter counts as idle: a filter may leave out all of one batch."""


@law("distance", cases=seeds, claimed_by=has_parameters, at_most=3)
@law("space", cases=seeds, claimed_by=has_parameters, at_most=3)
def every_parameter_learns(component: Distance | Space, seed: int) -> None:
    """A finite gradient reaches every parameter that a distance or space has built and that asks for one.

    One that none reaches has been cut from the graph, or is not used.
    """
    idle: set[str] | None = None
    for number in range(TRIES):
        batch, loss_fn = batch_and_loss(component, seed + number)
        named = {name: leaf for name, leaf in loss_fn.spaces.named_parameters() if leaf.requires_grad}
        if not named:
            return
        gradients = torch.autograd.grad(
            batch.loss(loss_fn).loss, list(named.values()), allow_unused=True, materialize_grads=True
        )
        for name, gradient in zip(named, gradients, strict=True):
            expect_finite(gradient, f"the gradient of {name}")
        found = {name for name, gradient in zip(named, gradients, strict=True) if not gradient.any()}
        idle = found if idle is None else idle & found
        if not idle:
            return
    expect(False, f"the gradient of {', '.join(sorted(idle or ()))}: expected some, found none in several batches.")


@law("distance", cases=seeds, claimed_by=has_parameters, at_most=3)
@law("space", cases=seeds, claimed_by=has_parameters, at_most=3)
def a_checkpoint_restores_it(component: Distance | Space, seed: int) -> None:
    """What a distance or space has built, trained, saved, and loaded into a new one, gives the same loss.

    State outside of parameters and persistent buffers is lost.
    """
    batch, loss_fn = batch_and_loss(component, seed)
    other = loss_of(loss_fn.spec, batch, seed + 1)
    other.load_state_dict(loss_fn.state_dict())
    found, expected = (batch.loss(one).loss.detach() for one in (other, loss_fn))
    expect_close(found, expected, "the loss of one restored from a checkpoint")


@law("distance", cases=seeds, claimed_by=has_parameters, at_most=3)
@law("space", cases=seeds, claimed_by=has_parameters, at_most=3)
def a_call_changes_nothing_built(component: Distance | Space, seed: int) -> None:
    """A call leaves parameters and buffers as they are, and gives the same loss again.

    It is called as often as an engine finds well, so what counts calls, or averages over them, counts something else.
    """
    batch, loss_fn = batch_and_loss(component, seed)
    before = {name: tensor.clone() for name, tensor in _state(loss_fn)}
    first, second = (batch.loss(loss_fn).loss for _ in range(2))
    for name, tensor in _state(loss_fn):
        expect_equal(tensor, before[name], f"{name} after two calls")
    expect_close(second, first, "the loss at the second call")


def _builds_or_combines(component: Any) -> bool:
    return has_parameters(component) or isinstance(component, GroupSpace)


@law("distance", cases=seeds, claimed_by=has_parameters, at_most=3)
@law("space", cases=seeds, claimed_by=_builds_or_combines, at_most=3)
def both_engines_agree(component: Distance | Space, seed: int) -> None:
    """Computed a few rows at a time, terms and all gradients are those of all rows at once.

    Gradients to hidden states, to the student's head, to projectors, and to what is built.
    """
    expect_engines_to_agree(spec_of(component), seed)


def _state(loss_fn: DSKDLoss) -> list[tuple[str, torch.Tensor]]:
    return [*loss_fn.spaces.named_parameters(), *loss_fn.spaces.named_buffers()]
