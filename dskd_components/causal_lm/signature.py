"""Which inputs a causal model takes."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Final

from dskd_components.causal_lm.wrappers import unwrapped

if TYPE_CHECKING:
    from dskd_components.causal_lm.protocol import CausalLM

COMMON_INPUTS: Final = ("input_ids", "attention_mask", "position_ids")
"""What any model that takes ``**kwargs`` is given, although it may not name it."""


def named_inputs(model: CausalLM) -> tuple[str, ...]:
    """Return the inputs that a model takes by name.

    The signature of the model inside of all wrappers decides: wrappers take anything and pass it on.

    Args:
        model: a causal language model, or a wrapper of one.

    Returns:
        The names of its forward's parameters, and with ``**kwargs`` those of `COMMON_INPUTS`.
    """
    inner = unwrapped(model)
    parameters = inspect.signature(getattr(inner, "forward", inner)).parameters
    named = tuple(name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD)
    return named if len(named) == len(parameters) else tuple(dict.fromkeys((*named, *COMMON_INPUTS)))
