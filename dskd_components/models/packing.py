"""Whether a model keeps the samples of a packed row apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast
from weakref import WeakKeyDictionary

import torch

from dskd_components.errors import InputError
from dskd_components.models.hidden_states import last_hidden_states
from dskd_components.models.precision import upcast
from dskd_components.models.verification import ordinary_tokens, undisturbed
from dskd_components.models.wrappers import COMMON_INPUTS, unwrapped

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from dskd_components.models.row_layout import RowLayout
    from dskd_components.models.wrappers import CausalLM

SAMPLE_LENGTH: Final = 4
FULL_PRECISION_TOLERANCE: Final = 1e-4
HALF_PRECISION_TOLERANCE: Final = 3e-2


def packing_leaks(
    model: CausalLM, *, inputs: Collection[str] = ("input_ids", "position_ids"), device: torch.device | None = None
) -> float:
    """Return how much a sample's hidden states change when another sample stands before it in a packed row.

    A packed row tells its samples apart by ``position_ids`` that start anew. Models that make no use of them, or are
    given an ``attention_mask`` as well, let later samples look at earlier ones. The model is run on two samples of four
    tokens, packed and apart, and left as it was.

    Args:
        model: a causal language model, or a wrapper of one.
        inputs: which inputs packed rows come with; of ``attention_mask`` one of ones is made.
        device: where the model is; None: where its input embedding is.

    Returns:
        The relative difference of the second sample's hidden states, the median over its tokens: rounding, if samples
        are kept apart (`leak_tolerance`).

    Raises:
        InputError: the model cannot be run on such rows.
    """
    if device is None:
        device = cast("Tensor", unwrapped(model).get_input_embeddings().weight).device
    tokens = ordinary_tokens(model, 2 * SAMPLE_LENGTH, device)
    positions = torch.arange(SAMPLE_LENGTH, device=device)[None]
    with undisturbed(model, device):
        packed = _states(model, tokens, torch.cat([positions, positions], dim=1), inputs)
        alone = _states(model, tokens[:, SAMPLE_LENGTH:], positions, inputs)
    difference = (packed[:, SAMPLE_LENGTH:] - alone).norm(dim=-1) / alone.norm(dim=-1).clamp(min=1e-12)
    return float(difference.median())


def leak_tolerance(dtype: torch.dtype) -> float:
    """Return the largest value of `packing_leaks` that is no more than rounding.

    Args:
        dtype: the model's.
    """
    return FULL_PRECISION_TOLERANCE if dtype in (torch.float32, torch.float64) else HALF_PRECISION_TOLERANCE


def _states(model: CausalLM, tokens: Tensor, positions: Tensor, inputs: Collection[str]) -> Tensor:
    made = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "position_ids": positions}
    try:
        return upcast(last_hidden_states(model, {name: made[name] for name in COMMON_INPUTS if name in inputs}))
    except Exception as error:
        raise InputError(
            f"{type(unwrapped(model)).__name__} failed on a packed row of {tokens.shape[1]} tokens: "
            f"{type(error).__name__}: {str(error).rstrip('.')}. Use batches that are not packed."
        ) from error


_known_leaks: WeakKeyDictionary[CausalLM, dict[tuple[object, ...], float]] = WeakKeyDictionary()


def require_samples_apart(
    model: CausalLM, inputs: Mapping[str, Tensor], layout: RowLayout, prefix: str, *, named: bool
) -> None:
    """Refuse packed rows that a model would read as one text.

    A model is tried once, at its first batch with columns of packed rows (`packing_leaks`). With sharded parameters,
    all ranks must therefore have them, or none.

    Args:
        model: a causal language model, or a wrapper of one.
        inputs: what the model is run on.
        layout: where samples begin.
        prefix: of the columns' names, for the message.
        named: whether the batch says itself that its rows are packed, by ``segment_ids``.

    Raises:
        InputError: samples leak into one another; the message names the model and says what to change.
    """
    mask = inputs.get("attention_mask")
    if mask is not None and mask.ndim != 2:
        return  # A mask of query by key says itself who sees whom.
    ids = layout.segment_ids
    packed = ids is not None and bool((ids[:, 1:] != ids[:, :-1]).any())
    if packed and layout.counted and mask is not None:
        raise InputError(
            f"The samples of a packed row are told apart by {prefix}position_ids or the like, but with "
            f"'{prefix}attention_mask' the model would not look for them there. Leave the mask out."
        )
    # What decides whether the model is tried must be the same on all ranks: names of columns, not what is in them.
    if not packed and not named and (mask is not None or "position_ids" not in inputs):
        return
    try:
        leak = _known_leak(model, inputs)
    except InputError:
        if packed:
            raise
        return
    dtype = cast("Tensor", unwrapped(model).get_input_embeddings().weight).dtype
    if leak <= leak_tolerance(dtype) or not packed:
        return
    if "position_ids" not in inputs:
        remedy = f"The batch has no column '{prefix}position_ids' that starts anew with each sample; add it."
    elif mask is not None:
        remedy = f"Leave out '{prefix}attention_mask': with it, packed samples are not looked for in the position_ids."
    else:
        remedy = (
            "It makes no use of position_ids that start anew; collate without packing, or try another "
            "attn_implementation of the model."
        )
    raise InputError(
        f"{type(unwrapped(model)).__name__} lets the samples of a packed row see one another: a sample's hidden states "
        f"change by {leak:.1%} when another one stands before it. {remedy}"
    )


def _known_leak(model: CausalLM, inputs: Mapping[str, Tensor]) -> float:
    inner = unwrapped(model)
    leaks = _known_leaks.setdefault(inner, {})
    names = tuple(name for name in COMMON_INPUTS if name in inputs)
    key = (names, getattr(inner.config, "_attn_implementation", None))
    if key not in leaks:
        leaks[key] = packing_leaks(model, inputs=names, device=inputs["input_ids"].device)
    return leaks[key]
