"""The loss that a mixture of experts has of its own: whether its router spreads tokens evenly over the experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor

from dskd_components.errors import InputError
from dskd_components.models.head_recipe import text_config
from dskd_components.models.wrappers import takes_input, unwrapped

if TYPE_CHECKING:
    from dskd_components.models.wrappers import CausalLM

OPTION: Final = "output_router_logits"
"""With it, in its configuration or as an argument, a model returns its router's loss."""

WEIGHTS: Final = ("router_aux_loss_coef", "aux_loss_coef")
"""Where a model has its weight, as an attribute or in its configuration; the second one is JetMoE's."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AuxLoss:
    """A model's auxiliary loss of one batch.

    Args:
        value: scalar, floating point, part of the graph, before its weight: a mean over the tokens of the batch.
        weight: what the model multiplies it with, where it adds it to its own loss.
    """

    value: Tensor
    weight: float


def asking_for_aux_loss(model: CausalLM) -> dict[str, bool]:
    """Return the argument that makes a model return its router's loss, if its configuration asks for that.

    Models that take images look at the argument alone.

    Args:
        model: a causal language model, or a wrapper of one.
    """
    wanted = getattr(text_config(model), OPTION, False) and takes_input(model, OPTION)
    return {OPTION: True} if wanted else {}


def aux_loss_of(model: CausalLM, output: Any) -> AuxLoss | None:
    """Return the auxiliary loss of a model's output; None if there is none.

    Args:
        model: the model.
        output: what its forward returned.

    Raises:
        InputError: nobody says how the model weighs it.
    """
    value = getattr(output, "aux_loss", None)
    if not isinstance(value, Tensor):
        return None
    holders = (unwrapped(model), text_config(model))
    found = (getattr(holder, name, None) for holder in holders for name in WEIGHTS)
    weight = next((weight for weight in found if weight is not None), None)
    if weight is None:
        raise InputError(
            f"{type(unwrapped(model)).__name__} returned an aux_loss, but neither it nor its configuration has "
            f"{' or '.join(WEIGHTS)}, by which it would be multiplied. Set model.config.{WEIGHTS[0]}, or leave the "
            f"loss out with model.config.{OPTION} = False."
        )
    return AuxLoss(value=value, weight=float(weight))
