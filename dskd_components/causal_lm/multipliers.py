"""What configurations say about logits beyond the product with the weight: multipliers, caps, rows that are cut off.

Models name these fields as they like; the tables below are all that the library knows. A model that is not covered is
found out by `Head.verify`, which compares with the model's own logits.
"""

from __future__ import annotations

from typing import Any, Final

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
