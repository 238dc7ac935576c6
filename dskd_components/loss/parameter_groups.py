"""The optimizer groups of what a loss owns, and the learning rates that these may have."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any, SupportsFloat

from dskd_components.components.space_modules import SpaceModules, module_key
from dskd_components.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from dskd_components.components.aligner import AlignerModule


def parameter_groups(
    module: nn.Module, factors: Mapping[str, float], *, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return the trainable parameters of a module, one group for each learning rate, the common rate first.

    Args:
        module: owns the parameters.
        factors: by name of a submodule, what its learning rate is multiplied with.
        lr: the common learning rate.
        weight_decay: of all groups.

    Returns:
        The groups; none if there is nothing to train.

    Raises:
        AttributeError: there is no submodule of that name.
        InputError: a rate is no number, or negative.

    Examples:
        >>> from torch import nn
        >>> module = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        >>> [group["lr"] for group in parameter_groups(module, {"1": 0.5}, lr=2.0, weight_decay=0.0)]
        [2.0, 1.0]
    """
    require_rate("lr", lr)
    require_rate("weight_decay", weight_decay)
    factor_of = {
        id(parameter): factor
        for name, factor in factors.items()
        for parameter in module.get_submodule(name).parameters()
    }
    by_factor: dict[float, list[nn.Parameter]] = {1.0: []}
    for parameter in module.parameters():
        if parameter.requires_grad:
            by_factor.setdefault(factor_of.get(id(parameter), 1.0), []).append(parameter)
    return [
        {"params": parameters, "lr": factor * lr, "weight_decay": weight_decay}
        for factor, parameters in by_factor.items()
        if parameters
    ]


def learning_rate_factors(aligner: AlignerModule, modules: Mapping[str, SpaceModules]) -> dict[str, float]:
    """Return, by name of a submodule of a loss, what its learning rate is multiplied with.

    Args:
        aligner: the loss's aligner.
        modules: what was built for its spaces, by their names.
    """
    factors = {f"aligner.{part}": factor for part, factor in aligner.learning_rate_factors().items()}
    for name, built in modules.items():
        factors |= {f"spaces.{module_key(name)}.{part}": factor for part, factor in built.factors.items()}
    return factors


def require_rate(name: str, rate: object) -> None:
    """Refuse a learning rate or a weight decay that is none: in a group, torch takes any.

    Args:
        name: what the message calls it.
        rate: must be one number, of any type, that is finite and not negative.

    Raises:
        InputError: it is something else.
    """
    number = math.nan
    if isinstance(rate, SupportsFloat) and not isinstance(rate, bool):
        with suppress(TypeError, ValueError, OverflowError, RuntimeError):  # several numbers, or one that is too large
            number = float(rate)
    if not 0 <= number < math.inf:
        of_yaml = " YAML may take 1e-3 for text: write 1.0e-3." if isinstance(rate, str) else ""
        raise InputError(f"{name}: expected a finite number that is not negative, got {rate!r}.{of_yaml}")
