"""The recipe by which a causal model makes logits, read from its output embeddings and configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
        model: a causal language model with ``get_output_embeddings()`` and ``config``.

    Returns:
        The recipe; its tensors are the model's live parameters, gathered where they are spread over ranks.

    Raises:
        InputError: the model has no output embeddings.
    """
    try:
        output_embeddings = model.get_output_embeddings()
    except AttributeError:
        output_embeddings = None
    weight = getattr(output_embeddings, "weight", None)
    if output_embeddings is None or weight is None:
        raise InputError(
            f"{type(model).__name__}: expected a causal language model whose get_output_embeddings() returns a "
            "module with a weight. Load it as AutoModelForCausalLM, or build Head(weight, ...) by hand."
        )
    bias = getattr(output_embeddings, "bias", None)
    config = text_config(model)
    return HeadRecipe(
        weight=gathered(weight),
        bias=None if bias is None else gathered(bias),
        scale=_scale(config),
        softcap=getattr(config, "final_logit_softcapping", None),
    )


def text_config(model: CausalLM) -> Any:
    """Return the configuration of the language part, which on multimodal models is nested."""
    config = model.config
    return config.get_text_config() if callable(getattr(config, "get_text_config", None)) else config


def _scale(config: Any) -> float:
    """Return the product of the multipliers that configurations declare; an absent one is 1.

    They are Cohere's ``logit_scale``, Falcon-H1's ``lm_head_multiplier``, Granite's ``logits_scaling`` (a
    divisor) and MiniCPM's ``dim_model_base`` (hidden states are divided by ``hidden_size / dim_model_base``).
    """
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    scale *= float(getattr(config, "lm_head_multiplier", None) or 1.0)
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)
    base_width = getattr(config, "dim_model_base", None)
    return scale * base_width / config.hidden_size if base_width else scale
