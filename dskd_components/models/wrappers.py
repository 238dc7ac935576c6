"""What is asked of a causal language model, and the model inside of its wrappers."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from dskd_components.errors import InputError, what_came
from dskd_components.models.in_place_of_model import advice_in_place_of_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn


class CausalLM(Protocol):
    """A causal language model, as `transformers` writes them."""

    @property
    def config(self) -> Any:
        """The configuration; optional fields of it say how logits are scaled and capped."""
        ...

    @property
    def training(self) -> bool:
        """Whether dropout is on."""
        ...

    def get_input_embeddings(self) -> nn.Module:
        """Return the module whose ``weight`` is the input embedding ``[V, d]``."""
        ...

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the module whose ``weight`` (and ``bias``) make the logits."""
        ...

    def __call__(self, **inputs: Any) -> Any:
        """Run the model; the result has ``logits`` and, on request, ``hidden_states``."""
        ...


WRAPPED_AS: Final = ("module", "_orig_mod", "base_model", "model")
"""The attributes under which wrappers hold what they wrap, in the order in which they are looked for.

``module``: data parallelism, FSDP, DeepSpeed engines; ``_orig_mod``: `torch.compile`; ``base_model`` and then
``model``: PEFT; ``model``: most hand-written wrappers.
"""


def unwrapped(model: CausalLM) -> CausalLM:
    """Return the causal language model inside of any number of wrappers.

    The rule: an object whose class has ``get_output_embeddings`` is the model. Any other is a wrapper, and what it
    wraps is its first attribute of `WRAPPED_AS`. Only reading goes through here; models are *called* from outside, so
    that every wrapper does its work.

    Args:
        model: a model or a wrapper.

    Raises:
        InputError: there is no causal language model inside; the message names the class.
    """
    *_, innermost = layers(model)
    return innermost


def layers(model: CausalLM) -> Iterator[CausalLM]:
    """Give a model's wrappers from the outermost to the innermost, and at last the model itself.

    Args:
        model: a model or a wrapper.

    Raises:
        InputError: there is no causal language model inside; the message names the class.
    """
    layer: Any = model
    while not hasattr(type(layer), "get_output_embeddings"):
        yield layer
        # Not getattr: many wrappers answer for what they wrap, and would skip a layer.
        held = getattr(layer, "__dict__", {})
        held = held | held.get("_modules", {})
        layer = next((held[name] for name in WRAPPED_AS if held.get(name) is not None), None)
        if layer is None:
            advice = advice_in_place_of_model(model)
            if advice is not None:
                raise InputError(f"{what_came(model)}: found no causal language model in it. {advice}")
            raise InputError(
                f"{type(model).__name__}: found no causal language model in it, that is, no object whose class has "
                f"get_output_embeddings(). Wrappers are looked into by their attributes {', '.join(WRAPPED_AS)}. Load "
                "the model as AutoModelForCausalLM, give your wrapper's class a get_output_embeddings(), or build "
                "Head(weight, ...) by hand."
            )
    yield cast("CausalLM", layer)


def is_compiled(model: CausalLM) -> bool:
    """Return whether `torch.compile` has been asked for a model or for any of its wrappers.

    Args:
        model: a model or a wrapper.
    """
    return any(
        "_orig_mod" in getattr(layer, "_modules", {}) or getattr(layer, "_compiled_call_impl", None) is not None
        for layer in layers(model)
    )


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
    parameters = _parameters(model)
    named = tuple(name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD)
    return named if len(named) == len(parameters) else tuple(dict.fromkeys((*named, *COMMON_INPUTS)))


def takes_input(model: CausalLM, name: str) -> bool:
    """Return whether a model takes an input, by name or among any others.

    Args:
        model: a causal language model, or a wrapper of one.
        name: of the input.
    """
    parameters = _parameters(model)
    return name in parameters or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def _parameters(model: CausalLM) -> Mapping[str, inspect.Parameter]:
    inner = unwrapped(model)
    return inspect.signature(getattr(inner, "forward", inner)).parameters
