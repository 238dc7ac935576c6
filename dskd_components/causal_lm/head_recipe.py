"""The recipe by which a causal model makes logits, read from its output embeddings and configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dskd_components.causal_lm.adapters import effective_weight
from dskd_components.causal_lm.multipliers import rows_of, scale_of, softcap_of
from dskd_components.causal_lm.wrappers import unwrapped
from dskd_components.distributed.gathering import gathered
from dskd_components.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.causal_lm.protocol import CausalLM


@dataclass(frozen=True, eq=False)
class HeadRecipe:
    """The parts of a head: ``softcap(scale * (h W^T + b))``."""

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None


def read_head_recipe(model: CausalLM) -> HeadRecipe:
    """Read how a model makes its logits.

    Args:
        model: a causal language model with ``get_output_embeddings()`` and ``config``, or a wrapper of one.

    Returns:
        The recipe; its tensors are the model's live parameters, or made of them where an adapter changes the head or an
        engine spreads it over ranks.

    Raises:
        InputError: the model has no output embeddings, or their weight cannot be read.
    """
    inner = unwrapped(model)
    name = type(inner).__name__
    output_embeddings = inner.get_output_embeddings()
    weight = None if output_embeddings is None else effective_weight(output_embeddings, name)
    if output_embeddings is None or weight is None:
        raise InputError(
            f"{name}: expected a causal language model whose get_output_embeddings() returns a "
            "module with a weight. Load it as AutoModelForCausalLM, or build Head(weight, ...) by hand."
        )
    if not weight.is_floating_point():
        raise InputError(
            f"{name}: the weight of its head is quantized ({str(weight.dtype).removeprefix('torch.')}), so no gradient "
            "can pass through it. Leave the head out of the quantization (llm_int8_skip_modules=['lm_head'], or the "
            "like in your quantization's configuration)."
        )
    weight, bias = gathered(weight), getattr(output_embeddings, "bias", None)
    bias = None if bias is None else gathered(bias)
    config = text_config(inner)
    rows = rows_of(config)
    return HeadRecipe(
        weight=weight[:rows] if rows else weight,
        bias=bias[:rows] if rows and bias is not None else bias,
        scale=scale_of(config),
        softcap=softcap_of(config),
    )


def text_config(model: CausalLM) -> Any:
    """Return the configuration of the language part, which on multimodal models is nested.

    Args:
        model: a causal language model, or a wrapper of one.

    Raises:
        InputError: the model has more than one language part.
    """
    inner = unwrapped(model)
    config = inner.config
    if not callable(getattr(config, "get_text_config", None)):
        return config
    try:
        return config.get_text_config()
    except ValueError as error:
        raise InputError(
            f"{type(inner).__name__}: its configuration has several language parts, so it is not clear which one makes "
            "the logits. Take the decoder as a model of its own, or build Head(weight, ...) by hand."
        ) from error
