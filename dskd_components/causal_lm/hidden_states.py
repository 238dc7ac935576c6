"""Running a causal model for its last hidden states, without paying for its logits."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch

from dskd_components.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dskd_components.causal_lm.protocol import CausalLM

PROBE_LENGTH = 4


def last_hidden_states(model: CausalLM, inputs: Mapping[str, Tensor]) -> Tensor:
    """Run a model and return the hidden states that its head reads.

    The call goes through the model's own forward, so that wrappers (compilation, adapters, data parallelism)
    see it. Logits are computed for one position only where the model can be told so.

    Args:
        model: a causal language model.
        inputs: the model's inputs by name: ``input_ids`` and, as needed, ``attention_mask`` and
            ``position_ids``, each ``[B, T]``.

    Returns:
        ``[B, T, d]``.

    Raises:
        InputError: the model returned no hidden states.
    """
    options = {"logits_to_keep": 1} if _accepts(model, "logits_to_keep") else {}
    output = model(**inputs, output_hidden_states=-1, use_cache=False, **options)
    return _last(model, output.hidden_states)


def probe(model: CausalLM, device: torch.device) -> tuple[Tensor, Tensor]:
    """Run a model on a few tokens and return the last hidden states ``[1, 4, d]`` and its logits ``[1, 4, V]``."""
    input_ids = torch.arange(PROBE_LENGTH, device=device)[None]
    output = model(input_ids=input_ids, output_hidden_states=-1, use_cache=False)
    return _last(model, output.hidden_states), output.logits


def _accepts(model: CausalLM, option: str) -> bool:
    forward = getattr(model, "forward", model)
    return option in inspect.signature(forward).parameters


def _last(model: CausalLM, hidden_states: tuple[Tensor | None, ...] | None) -> Tensor:
    last = hidden_states[-1] if hidden_states else None
    if last is None:
        raise InputError(
            f"{type(model).__name__} returned no hidden states when asked with output_hidden_states. Pass "
            "LMStates(hidden_states=...) to the loss yourself."
        )
    return last
