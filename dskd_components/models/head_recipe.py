"""How a causal language model makes logits of its last hidden states: head, multipliers, adapters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from torch import Tensor

from dskd_components.distributed.gathering import gathered
from dskd_components.errors import InputError
from dskd_components.models.loading import unloaded
from dskd_components.models.precision import quantized_form
from dskd_components.models.wrappers import unwrapped

if TYPE_CHECKING:
    from torch import nn

    from dskd_components.models.wrappers import CausalLM


ADDED_MATRICES: Final = ("lora_", "hada_", "lokr_")
"""How the parameters of adapters begin that add a matrix to the weight: LoRA and AdaLoRA, LoHa, LoKr."""


def effective_weight(layer: nn.Module, part: Literal["head", "input embedding"], model_name: str) -> Tensor | None:
    """Return the weight that a linear layer or an embedding applies, with gradients to whatever it is made of.

    Args:
        layer: the layer. With LoRA the weight is ``W + scaling B A``, made anew at each call.
        part: what the layer is of a model, for messages.
        model_name: the model's class, for messages.

    Returns:
        ``[out, in]``, or ``[V, d]`` for an embedding: the parameter itself where no adapter is at work; None if the
        layer has no weight.

    Raises:
        InputError: the weight is quantized, or an adapter does not say what weight it amounts to.
    """
    weight: Any = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        return None
    form = quantized_form(weight)
    if form is not None:
        raise InputError(
            f"{model_name}: the weight of its {part} is quantized ({form}), and its numbers are needed as they are. "
            "Leave this layer out of the quantization (llm_int8_skip_modules=['lm_head'] for bitsandbytes, "
            "modules_to_not_convert=['lm_head'] for torchao, or the like in your quantization's configuration)."
        )
    for adapter in _adapters_at_work(layer):
        _require_added_matrix(layer, adapter, model_name)
        weight = weight + layer.get_delta_weight(adapter)  # type: ignore[operator]
    return cast("Tensor", weight)


def _adapters_at_work(layer: Any) -> list[str]:
    """Return the adapters whose contribution is not in the base layer's weight already."""
    if not hasattr(layer, "base_layer") or layer.disable_adapters or layer.merged:
        return []
    parts = [getattr(layer, name) for name in layer.adapter_layer_names]
    return [adapter for adapter in layer.active_adapters if any(adapter in part for part in parts)]


def _require_added_matrix(layer: Any, adapter: str, model_name: str) -> None:
    """Refuse adapters that do more than add a matrix to the weight."""
    variant = getattr(layer, "lora_variant", {}).get(adapter)
    biased = getattr(layer, "lora_bias", {}).get(adapter, False)
    adds = any(name.startswith(ADDED_MATRICES) for name in layer.adapter_layer_names)
    if variant is None and not biased and adds:
        return
    kind = f"{type(layer).__module__}.{type(layer).__name__}" if variant is None else type(variant).__name__
    raise InputError(
        f"{model_name}: the adapter {adapter!r} works on its head or input embedding ({kind}"
        f"{', with lora_bias' if biased else ''}) and does more than add a matrix to the weight, so the weight that "
        "the model applies cannot be read. Leave the layer out of target_modules, use plain LoRA there, train it whole "
        "with modules_to_save, or merge the adapter."
    )


MULTIPLIERS: Final = {
    "logit_scale": 1,
    "lm_head_multiplier": 1,
    "logits_scaling": -1,
    "logits_mup_width_multiplier": -1,
}
"""By field, the power of it that logits are multiplied with. Cohere and Falcon-H1 multiply; Granite, MiniCPM3 and
Inkling divide."""

EXCEPTIONS: Final = {("hyperclovax", "logits_scaling"): 1, ("mpt", "logit_scale"): 0}
"""By model type and field, where a model reads a field otherwise: HyperCLOVA X multiplies, MPT ignores it."""

SOFTCAPS: Final = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Fields with a softcap: Gemma 2 and its heirs, RecurrentGemma, xLSTM."""


def scale_of(config: Any) -> float:
    """Return what a model multiplies its logits with; absent fields are 1.

    Args:
        config: the configuration of the language part.
    """
    model_type = str(getattr(config, "model_type", ""))
    scale = 1.0
    for field, power in MULTIPLIERS.items():
        scale *= float(getattr(config, field, None) or 1.0) ** EXCEPTIONS.get((model_type, field), power)
    base_width = getattr(config, "dim_model_base", None)
    # MiniCPM as published divides by this; its successor in transformers calls the same quotient logits_scaling.
    if base_width and not hasattr(config, "logits_scaling"):
        scale *= base_width / config.hidden_size
    return scale


def softcap_of(config: Any) -> float | None:
    """Return the value c of ``c tanh(logits / c)``, None if logits are not capped.

    Args:
        config: the configuration of the language part.
    """
    return next((cap for field in SOFTCAPS if (cap := getattr(config, field, None))), None)


def rows_of(config: Any) -> int | None:
    """Return how many leading rows of the weight make logits, None for all (Inkling cuts its padding off).

    Args:
        config: the configuration of the language part.
    """
    return getattr(config, "unpadded_vocab_size", None)


@dataclass(frozen=True, eq=False)
class HeadRecipe:
    """The parts of a head: ``softcap(scale * (h W^T + b))``, of whose rows some make logits."""

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None
    rows: int | None

    def gathered(self) -> HeadRecipe:
        """Return the same, whole on each rank, with no other rows than make logits."""
        weight, bias = gathered(self.weight), None if self.bias is None else gathered(self.bias)
        if self.rows:
            weight, bias = weight[: self.rows], None if bias is None else bias[: self.rows]
        return replace(self, weight=weight, bias=bias)


def read_head_recipe(model: CausalLM) -> HeadRecipe:
    """Read how a model makes its logits.

    Args:
        model: a causal language model with ``get_output_embeddings()`` and ``config``, or a wrapper of one.

    Returns:
        The recipe; its tensors are the model's live parameters, sharded where an engine shards them, or made of them
        where an adapter changes the head.

    Raises:
        InputError: the model has no output embeddings, or their weight cannot be read.
    """
    inner = unwrapped(model)
    name = type(inner).__name__
    output_embeddings = inner.get_output_embeddings()
    weight = None if output_embeddings is None else effective_weight(output_embeddings, "head", name)
    if output_embeddings is None or weight is None:
        raise InputError(
            f"{name}: expected a causal language model whose get_output_embeddings() returns a "
            "module with a weight. Load it as AutoModelForCausalLM, or build Head(weight, ...) by hand."
        )
    problem = unloaded(model) if weight.is_meta else None
    if problem is not None:
        raise problem.error(name)
    config = text_config(inner)
    return HeadRecipe(
        weight=weight,
        bias=getattr(output_embeddings, "bias", None),
        scale=scale_of(config),
        softcap=softcap_of(config),
        rows=rows_of(config),
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
