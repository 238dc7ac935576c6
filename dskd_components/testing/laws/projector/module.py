"""Laws about a projector as a module: its parameters, its arguments, the heads beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from dskd_components.components.projector import ProjectorHeads
from dskd_components.models.head import Head
from dskd_components.testing.expectation import expect, expect_close, expect_equal, expect_finite
from dskd_components.testing.law import law
from dskd_components.testing.laws.component import expect_effects, one_case
from dskd_components.testing.laws.projector.setting import TRIES, built, end_cases, make_ends
from dskd_components.testing.strategies.logits import normal

if TYPE_CHECKING:
    from dskd_components.components.projector import Projector
    from dskd_components.testing.laws.projector.setting import Ends


@law("projector", cases=end_cases(narrowest=3), at_most=10)
def every_parameter_learns(projector: Projector, ends: Ends, seed: int) -> None:
    """A finite gradient reaches every parameter that asks for one.

    One that none reaches has been cut from the graph, or is not used.
    """
    idle: set[str] | None = None
    for number in range(TRIES):
        found = _parameters_without_gradient(projector, ends, seed + number)
        idle = found if idle is None else idle & found
        if not idle:
            return
    expect(False, f"the gradient of {', '.join(sorted(idle or ()))}: expected some, found none.")


def _parameters_without_gradient(projector: Projector, ends: Ends, seed: int) -> set[str]:
    projection = built(projector, ends, seed)
    named = {name: parameter for name, parameter in projection.named_parameters() if parameter.requires_grad}
    total = projection(normal(seed, 64, ends.source_size), ends.heads).square().sum()
    if not named or not total.requires_grad:
        return set(named)
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True, materialize_grads=True)
    for name, gradient in zip(named, gradients, strict=True):
        expect_finite(gradient, f"the gradient of {name}")
    return {name for name, gradient in zip(named, gradients, strict=True) if not gradient.any()}


@law("projector", cases=end_cases(), at_most=20)
def arguments_are_not_changed(projector: Projector, ends: Ends, seed: int) -> None:
    """The hidden states and heads that a projector is given are as they were.

    They belong to the models.
    """
    tensors = {
        "hidden_states": ends.hidden_states,
        "heads.source.weight": ends.heads.source.weight,
        "heads.target.weight": ends.heads.target.weight,
    }
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    built(projector, ends, seed)(ends.hidden_states, ends.heads)
    for name, tensor in tensors.items():
        expect_equal(tensor, before[name], f"{name} after projecting")


@law("projector", cases=end_cases(), at_most=20)
def gradients_never_reach_the_heads(projector: Projector, ends: Ends, seed: int) -> None:
    """Nothing is learned by the heads through a projection, and they do not become part of it.

    The teacher is frozen, and the student's head learns from the student's own states.
    """
    source, target = (head.weight.clone().requires_grad_() for head in (ends.heads.source, ends.heads.target))
    heads = ProjectorHeads(
        source=Head(source), target=Head(target), source_ids=ends.heads.source_ids, target_ids=ends.heads.target_ids
    )
    with_leaves = type(ends)(ends.hidden_states.clone().requires_grad_(), heads)
    projection = built(projector, with_leaves, seed)
    projection(with_leaves.hidden_states, heads).sum().backward()
    for side, weight in (("source", source), ("target", target)):
        expect(weight.grad is None, f"heads.{side}.weight: expected no gradient, found one.")
        inside = any(_share_memory(parameter, weight) for parameter in projection.parameters())
        expect(
            not inside,
            f"heads.{side}.weight: expected it to be no parameter of the projection, found its memory among them.",
        )


def _share_memory(parameter: torch.Tensor, weight: torch.Tensor) -> bool:
    return parameter.numel() > 0 and parameter.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()


@law("projector", cases=one_case, at_most=1)
def options_have_an_effect(projector: Projector) -> None:
    """Another value of an option gives another projection, or other parameters, or needs something else.

    An option that does nothing has been forgotten, or lost on the way.
    """

    def observed(other: Projector) -> list[Any]:
        seen: list[Any] = [other.needs_heads, other.needs_frozen_target]
        for seed, shared in ((0, None), (1, 5)):
            [sizes] = projector.example_sizes[:1] or [(4, 3)]
            ends = make_ends(seed, sizes=sizes, vocabularies=(7, 7 if shared is None else 9), shared=shared)
            projection = built(other, ends, seed)
            hidden_states = ends.hidden_states.requires_grad_()
            projected = projection(hidden_states, ends.heads)
            seen += [projected.detach(), sorted(projection.state_dict()), projection.training]
            seen += [parameter.requires_grad for parameter in projection.parameters()]
            if projected.requires_grad:
                leaves = [hidden_states, *(leaf for leaf in projection.parameters() if leaf.requires_grad)]
                seen += torch.autograd.grad(projected.square().sum(), leaves, allow_unused=True, materialize_grads=True)
        return seen

    expect_effects(projector, observed)


@law("projector", cases=end_cases(), at_most=10)
def a_checkpoint_restores_it(projector: Projector, ends: Ends, seed: int) -> None:
    """A projector that is trained, saved, and loaded into a new one does what it did, with heads that have learned.

    State outside of parameters and persistent buffers is lost, and what was computed from a head that is trained comes
    out otherwise when it is computed again. A head that the projector needs frozen stays as it was.
    """
    trained = _with_trained_heads(ends, seed, target=not projector.needs_frozen_target)
    projection, other = built(projector, ends, seed), built(projector, trained, seed + 1)
    with torch.no_grad():
        for number, parameter in enumerate(projection.parameters()):
            parameter.add_(normal(seed + number, *parameter.shape))
    other.load_state_dict(projection.state_dict())
    expect_close(
        other(ends.hidden_states, trained.heads),
        projection(ends.hidden_states, trained.heads),
        "the projected states of one restored from a checkpoint",
    )


def _with_trained_heads(ends: Ends, seed: int, *, target: bool) -> Ends:
    heads = ends.heads
    source = replace(heads.source, weight=heads.source.weight + normal(seed, *heads.source.weight.shape))
    changed = replace(heads.target, weight=heads.target.weight + normal(seed + 1, *heads.target.weight.shape))
    return replace(ends, heads=replace(heads, source=source, target=changed if target else heads.target))
