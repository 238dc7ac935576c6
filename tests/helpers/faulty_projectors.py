"""Faulty projectors: a linear map with one thing wrong."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from dskd_components import Projection, Projector, ProjectorHeads
from dskd_components.components import Affine
from tests.helpers.fault import Fault, collected

PROJECTOR_FAULTS: list[Fault] = []


class LinearMap(Projection):
    def __init__(self, source_size: int, target_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(target_size, source_size))

    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        return hidden_states @ self.weight.to(hidden_states.dtype).T


class FaultyProjector(Projector):
    """Builds the projection class that the subclass names."""

    name: Literal["faulty"] = "faulty"

    def build(self, *, source_size: int, target_size: int, heads: ProjectorHeads | None) -> Projection:
        assert heads is not None
        return self.projection(source_size, target_size, heads)

    def projection(self, source_size: int, target_size: int, heads: ProjectorHeads) -> Projection:
        raise NotImplementedError


def fault(what: str, law: str) -> Any:
    """A decorator of a projection class: a projector that builds it is a fault."""

    def collect(projection: type[LinearMap]) -> type[LinearMap]:
        takes_heads = getattr(projection, "takes_heads", False)

        class Faulty(FaultyProjector):
            def projection(self, source_size: int, target_size: int, heads: ProjectorHeads) -> Projection:
                given: tuple[Any, ...] = (heads,) if takes_heads else ()
                return projection(source_size, target_size, *given)

        collected(PROJECTOR_FAULTS, what, law)(Faulty)
        return projection

    return collect


@fault("what comes in is ignored", "what_comes_in_decides_what_goes_out")
class IgnoresItsInput(LinearMap):
    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        return super().forward(torch.ones_like(hidden_states), heads)


@fault("another matrix is named than the one that is used", "an_affine_projection_is_what_it_says")
class NamesAnother(LinearMap):
    def affine(self, heads: ProjectorHeads) -> Affine:
        return Affine(2 * self.weight, None)


@fault("what comes in is detached", "what_comes_in_decides_what_goes_out")
class Detaches(LinearMap):
    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        return super().forward(hidden_states.detach(), heads)


@fault("the mean over positions is subtracted", "positions_know_nothing_of_one_another")
class Centres(LinearMap):
    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        if hidden_states.ndim == 3:
            hidden_states = hidden_states - hidden_states.mean(1, keepdim=True)
        return super().forward(hidden_states, heads)


@fault("bfloat16 comes out", "the_width_is_the_targets")
class Halves(LinearMap):
    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        return super().forward(hidden_states, heads).bfloat16()


@fault("bfloat16 inside", "float32_is_near_float64")
class HalvesInside(LinearMap):
    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        if hidden_states.dtype == torch.float32:
            return super().forward(hidden_states.bfloat16(), heads).float()
        return super().forward(hidden_states, heads)


@fault("no positions are too few", "no_positions_no_states")
class NeedsPositions(LinearMap):
    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        return super().forward(hidden_states / (1 + 0 * hidden_states.max()), heads)


@fault("dropout", "results_repeat")
class DropsOut(LinearMap):
    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        return super().forward(nn.functional.dropout(hidden_states, 0.5), heads)


@fault("hidden states are scaled in place", "arguments_are_not_changed")
class InPlace(LinearMap):
    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        with torch.no_grad():
            hidden_states.mul_(0.5)
        return super().forward(hidden_states, heads)


@fault("a gradient reaches the head", "gradients_never_reach_the_heads")
class TrainsTheHead(LinearMap):
    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        return super().forward(hidden_states, heads) * heads.target.weight.sum()


@fault("a parameter is not used", "every_parameter_learns")
class UnusedParameter(LinearMap):
    def __init__(self, source_size: int, target_size: int) -> None:
        super().__init__(source_size, target_size)
        self.bias = nn.Parameter(torch.zeros(target_size))


@fault("the weight is detached", "every_parameter_learns")
class DetachedWeight(LinearMap):
    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        return hidden_states @ self.weight.detach().to(hidden_states.dtype).T


@fault("state that is in no checkpoint", "a_checkpoint_restores_it")
class Forgetful(LinearMap):
    def __init__(self, source_size: int, target_size: int) -> None:
        super().__init__(source_size, target_size)
        self.scale = float(torch.rand(()))

    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        return super().forward(hidden_states, heads) * self.scale


@fault("a map made from the head that it projects to, in no checkpoint", "a_checkpoint_restores_it")
class MadeFromItsTarget(LinearMap):
    takes_heads = True

    def __init__(self, source_size: int, target_size: int, heads: ProjectorHeads) -> None:
        super().__init__(source_size, target_size)
        self.register_buffer("made", heads.target.weight.sum(0).tanh(), persistent=False)

    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        return super().forward(hidden_states, heads) + self.made


@fault("a map made from the head that it projects from, in no checkpoint", "a_checkpoint_restores_it")
class MadeFromItsSource(LinearMap):
    takes_heads = True

    def __init__(self, source_size: int, target_size: int, heads: ProjectorHeads) -> None:
        super().__init__(source_size, target_size)
        self.register_buffer("made", heads.source.weight.sum(0).tanh(), persistent=False)

    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        return super().forward(hidden_states * self.made, heads)


@fault("fewer shared tokens than the width are too few", "any_number_of_shared_tokens_will_do")
class NeedsManyTokens(LinearMap):
    takes_heads = True

    def __init__(self, source_size: int, target_size: int, heads: ProjectorHeads) -> None:
        super().__init__(source_size, target_size)
        source, target = heads.shared_weights()
        self.weight.data = torch.linalg.inv(target.T @ target) @ target.T @ source
