"""Optimizer parameter groups of a module whose parts may learn at rates of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn


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

    Examples:
        >>> from torch import nn
        >>> module = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        >>> [group["lr"] for group in parameter_groups(module, {"1": 0.5}, lr=2.0, weight_decay=0.0)]
        [2.0, 1.0]
    """
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
