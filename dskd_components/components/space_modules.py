"""`SpaceModules`: what was built for one space and its distances, called with tensors in the place of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from torch.func import functional_call

from dskd_components.components.group_space import ComparedGroups, GroupSpace
from dskd_components.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dskd_components.components.component import Component
    from dskd_components.components.distance import Distance
    from dskd_components.components.projector import ProjectorHeads
    from dskd_components.components.space import ComparedRows, Space, SpaceResult


def module_key(name: str, taken: Sequence[str] = ()) -> str:
    """Return what a module may be called in a `torch.nn.ModuleDict`.

    Args:
        name: what it should be called.
        taken: keys that others have.

    Examples:
        >>> module_key("my.kl"), module_key("values"), module_key("kl", ["kl"])
        ('my_kl', 'values_', 'kl_')
    """
    key = name.replace(".", "_")
    while hasattr(nn.ModuleDict, key) or key in taken:
        key += "_"
    return key


class SpaceModules(nn.Module):
    """The modules of one space: its own, if it has one, and one for each of its distances that has parameters.

    Args:
        own: has the method ``compare`` or ``combine`` of the space; None: the space does that itself.
        distances: by name, modules that are called in place of distances.
        factors: by name of a submodule, what its learning rate is multiplied with.
    """

    def __init__(self, own: nn.Module | None, distances: Mapping[str, nn.Module], factors: Mapping[str, float]) -> None:
        super().__init__()
        self.own = own
        self.distances = nn.ModuleDict(dict(distances))
        self.factors = {name: factor for name, factor in factors.items() if factor != 1.0}

    @classmethod
    def of(cls, space: Space, default: Distance, heads: ProjectorHeads | None) -> SpaceModules | None:
        """Build what a space and its distances need; None if that is nothing.

        Args:
            space: the space.
            default: the spec's distance.
            heads: both models' heads, from teacher to student, if known.

        Raises:
            ConfigurationError: something that was built is no module, or has no method to be called by; or a component
                needs heads that are not given.
        """
        own = _checked(space, space.build(heads=heads), _method(space))
        tokens = None if heads is None else space.compared_tokens(heads)
        factors = {"own": space.learning_rate_factor}
        built: dict[str, nn.Module] = {}
        for key, distance in _keys(space, default).items():
            module = _checked(distance, distance.build(tokens=tokens, heads=heads), "forward")
            if module is not None:
                built[key] = module
                factors[f"distances.{key}"] = distance.learning_rate_factor
        if own is None and not built:
            return None
        return cls(own, built, {name: factor for name, factor in factors.items() if name != "own" or own is not None})

    def called_with(
        self, tensors: Mapping[str, Tensor], space: Space, compared: ComparedRows | ComparedGroups, default: Distance
    ) -> SpaceResult:
        """Return what the space finds, with some tensors in the place of parameters and buffers.

        Args:
            tensors: by name.
            space: the space that the modules are of.
            compared: what it compares.
            default: the spec's distance.
        """
        return cast("SpaceResult", functional_call(self, dict(tensors), (space, compared, default)))

    def forward(self, space: Space, compared: ComparedRows | ComparedGroups, default: Distance) -> SpaceResult:
        """Return what the space finds; arguments as in `called_with`."""
        actor: Any = space if self.own is None else self.own
        if isinstance(compared, ComparedGroups):
            return cast("SpaceResult", actor.combine(compared))
        built = [
            (distance, self.distances[key]) for key, distance in _keys(space, default).items() if key in self.distances
        ]
        return cast("SpaceResult", actor.compare(replace(compared, built=built)))


def _keys(space: Space, default: Distance) -> dict[str, Distance]:
    """Return a space's distances by the keys of their modules; equal ones share one."""
    found: dict[str, Distance] = {}
    for distance in space.distances(default):
        if not any(distance == known for known in found.values()):
            found[module_key(distance.name, list(found))] = distance
    return found


def _method(space: Space) -> str:
    return "combine" if isinstance(space, GroupSpace) else "compare"


def _checked(component: Component, module: object, method: str) -> nn.Module | None:
    if module is None:
        return None
    if not isinstance(module, nn.Module):
        raise ConfigurationError(
            f"The {component.kind} {component.name!r}: expected build(...) to return an nn.Module or None, got "
            f"{type(module).__name__}."
        )
    if not callable(getattr(module, method, None)):
        raise ConfigurationError(
            f"The {component.kind} {component.name!r}: what build(...) returns takes its place, so it needs a method "
            f"{method}(...); {type(module).__name__} has none."
        )
    return module
