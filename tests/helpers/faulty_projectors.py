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


def fault(what: str, law: str, *, of_projector: bool = False) -> Any:
    """A decorator of a projection class, or of a projector: a projector that builds it is a fault."""
    if of_projector:
        return collected(PROJECTOR_FAULTS, what, law)

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


@fault("a part that is zero at first is missing in what affine names", "an_affine_projection_is_what_it_says")
class NamesTheFirstPart(LinearMap):
    def __init__(self, source_size: int, target_size: int) -> None:
        super().__init__(source_size, target_size)
        self.update = nn.Parameter(torch.zeros(target_size, source_size))

    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        return hidden_states @ (self.weight + self.update).to(hidden_states.dtype).T

    def affine(self, heads: ProjectorHeads) -> Affine:
        return Affine(self.weight, None)


@fault("a bias that is zero at first is missing in what affine names", "an_affine_projection_is_what_it_says")
class ForgetsItsBias(LinearMap):
    def __init__(self, source_size: int, target_size: int) -> None:
        super().__init__(source_size, target_size)
        self.bias = nn.Parameter(torch.zeros(target_size))

    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        return super().forward(hidden_states, heads) + self.bias.to(hidden_states.dtype)

    def affine(self, heads: ProjectorHeads) -> Affine:
        return Affine(self.weight, None)


@fault("what affine names has a dtype of its own", "an_affine_projection_is_what_it_says")
class NamesFloat32(LinearMap):
    def affine(self, heads: ProjectorHeads) -> Affine:
        return Affine(self.weight.float(), None)


@fault("a gate that is zero at first opens to the neighbours", "positions_know_nothing_of_one_another")
class GatedNeighbours(LinearMap):
    def __init__(self, source_size: int, target_size: int) -> None:
        super().__init__(source_size, target_size)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        projected = super().forward(hidden_states, heads)
        return projected + self.gate * projected.mean(-2, keepdim=True) if projected.ndim > 1 else projected


class SolvedMap(LinearMap):
    """The map that is the best between rows of the heads, which the subclass chooses."""

    takes_heads = True

    def __init__(self, source_size: int, target_size: int, heads: ProjectorHeads) -> None:
        super().__init__(source_size, target_size)
        source, target = self.rows(heads)
        self.weight.data = (torch.linalg.pinv(target.double()) @ source.double()).to(source.dtype)

    def rows(self, heads: ProjectorHeads) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


@fault("shared tokens are paired in the wrong order", "the_order_of_shared_tokens_does_not_matter")
class PairsBackwards(SolvedMap):
    def rows(self, heads: ProjectorHeads) -> tuple[Tensor, Tensor]:
        source, target = heads.shared_weights()
        return source.flip(0), target


@fault("shared tokens are each paired with the next", "the_order_of_shared_tokens_does_not_matter")
class PairsWithTheNext(SolvedMap):
    def rows(self, heads: ProjectorHeads) -> tuple[Tensor, Tensor]:
        source, target = heads.shared_weights()
        if heads.source_ids is None:
            return source, target
        # Sorted on one side alone, the pairs part.
        return source, target[heads.target_ids.argsort()] if heads.target_ids is not None else target


@fault("rows of the heads are paired by their place", "token_numbers_do_not_matter")
class PairsByPlace(SolvedMap):
    def rows(self, heads: ProjectorHeads) -> tuple[Tensor, Tensor]:
        size = min(len(heads.source.weight), len(heads.target.weight))
        return heads.source.weight[:size], heads.target.weight[:size]


@fault("the source's ids are used for the target, too", "token_numbers_do_not_matter")
class OneSetOfIds(SolvedMap):
    def rows(self, heads: ProjectorHeads) -> tuple[Tensor, Tensor]:
        if heads.source_ids is None:
            return heads.shared_weights()
        ids = heads.source_ids
        return heads.source.weight[ids], heads.target.weight[ids % len(heads.target.weight)]


@fault("heads that were given at build are kept", "a_checkpoint_restores_it")
class KeepsTheHeads(LinearMap):
    takes_heads = True

    def __init__(self, source_size: int, target_size: int, heads: ProjectorHeads) -> None:
        super().__init__(source_size, target_size)
        self.heads = [heads]

    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        [kept] = self.heads
        return super().forward(hidden_states, heads) * kept.target.weight.detach().mean(0).tanh()


@fault("a parameter shares the memory of a head", "gradients_never_reach_the_heads")
class SharesTheHead(LinearMap):
    takes_heads = True

    def __init__(self, source_size: int, target_size: int, heads: ProjectorHeads) -> None:
        super().__init__(source_size, target_size)
        self.scale = nn.Parameter(heads.target.weight.detach()[0])

    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        return super().forward(hidden_states, heads) * self.scale


@fault("a tensor is made on the default device", "everything_is_made_where_the_states_are")
class Elsewhere(LinearMap):
    def forward(self, hidden_states: Tensor, heads: ProjectorHeads) -> Tensor:
        return super().forward(hidden_states, heads) * torch.ones(self.weight.shape[0])


@fault("an option does nothing", "options_have_an_effect", of_projector=True)
class IdleOption(FaultyProjector):
    scaled: bool = False

    def projection(self, source_size: int, target_size: int, heads: ProjectorHeads) -> Projection:
        return LinearMap(source_size, target_size)
