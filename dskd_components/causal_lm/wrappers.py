"""From a wrapped model to the causal language model inside, by one rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from dskd_components.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dskd_components.causal_lm.protocol import CausalLM

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
