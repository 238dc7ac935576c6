"""The weight that a layer really applies when an adapter (PEFT) works beside it.

An adapted layer answers to ``weight`` with its base layer's, which is not what it computes. Adapters are recognised by
the attributes that PEFT documents for them, so that PEFT is never imported here. Layers that PEFT replaces whole
(``modules_to_save``, ``trainable_token_indices``) answer to ``weight`` with what they apply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from torch import Tensor

from dskd_components.errors import InputError

if TYPE_CHECKING:
    from torch import nn

ADDED_MATRICES: Final = ("lora_", "hada_", "lokr_")
"""How the parameters of adapters begin that add a matrix to the weight: LoRA and AdaLoRA, LoHa, LoKr."""


def effective_weight(layer: nn.Module, model_name: str) -> Tensor | None:
    """Return the weight that a linear layer or an embedding applies, with gradients to whatever it is made of.

    Args:
        layer: the layer. With LoRA the weight is ``W + scaling B A``, made anew at each call.
        model_name: the model's class, for messages.

    Returns:
        ``[out, in]``, or ``[V, d]`` for an embedding: the parameter itself where no adapter is at work; None if the
        layer has no weight.

    Raises:
        InputError: the adapter does not say what weight it amounts to.
    """
    weight: Any = getattr(layer, "weight", None)
    for adapter in _adapters_at_work(layer):
        _require_added_matrix(layer, adapter, model_name)
        weight = weight + layer.get_delta_weight(adapter)  # type: ignore[operator]
    return weight if isinstance(weight, Tensor) else None


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
