"""Whether a head gives the model's own logits, found by running both."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dskd_components.distributed.gathering import gathered_when_called
from dskd_components.errors import InputError, NonFiniteError
from dskd_components.models.head_recipe import text_config
from dskd_components.models.hidden_states import run_for_states, states_of
from dskd_components.models.loading import unloaded
from dskd_components.models.precision import overflow_advice, upcast
from dskd_components.models.wrappers import unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dskd_components.models.wrappers import CausalLM


PROBE_LENGTH = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class Probe:
    """What a model made of a few tokens.

    Args:
        hidden_states: ``[1, T, d]``: the last ones that it returned.
        logits: ``[1, T, V]``: its own.
        head_input: ``[1, T, d]``: what its output embeddings were called with; None if they were not called.
        computed_in: the dtype of what they returned, before autocasting wrappers widen it.
    """

    hidden_states: Tensor
    logits: Tensor
    head_input: Tensor | None
    computed_in: torch.dtype


def probe(model: CausalLM, device: torch.device) -> Probe:
    """Run a model on a few ordinary tokens, from outside of its wrappers, in evaluation mode.

    Args:
        model: a causal language model, or a wrapper of one. Its mode and the state of random numbers are left as they
            were, also if it fails.
        device: where it is.

    Raises:
        InputError: the model failed (the cause is chained), or returned no logits or hidden states, or such as are
            not finite.
    """
    name = type(unwrapped(model)).__name__
    inputs = {"input_ids": ordinary_tokens(model, PROBE_LENGTH, device)}
    with undisturbed(model, device), gathered_when_called(model), _recorded_call(model) as recorded:
        try:
            output = run_for_states(model, inputs)
        except Exception as error:
            problem = unloaded(model)
            if problem is not None:
                raise problem.error(name) from error
            raise InputError(
                f"{name} failed on the {PROBE_LENGTH} tokens by which its head is checked: {type(error).__name__}: "
                f"{str(error).rstrip('.')}. If it needs other inputs than input_ids, read its head with "
                "Head.from_model(model, verify=False) and compare head.logits(hidden_states) with its logits yourself."
            ) from error
    hidden_states, logits = states_of(model, output), getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise InputError(f"{name}: expected its forward to return logits, got {type(output).__name__} without.")
    if not hidden_states.isfinite().all():
        raise NonFiniteError(
            f"{name} gives hidden states with NaN or infinity for {PROBE_LENGTH} ordinary tokens, so its head cannot "
            f"be checked. Its weights are damaged, or overflow in this dtype.{overflow_advice(hidden_states.dtype)}"
        )
    head_input, computed_in = recorded[0] if recorded else (None, logits.dtype)
    return Probe(hidden_states=hidden_states, logits=logits, head_input=head_input, computed_in=computed_in)


@contextmanager
def undisturbed(model: CausalLM, device: torch.device) -> Iterator[None]:
    """Put a model into evaluation mode without gradients, and afterwards everything back as it was.

    Args:
        model: a causal language model, or a wrapper of one.
        device: whose random numbers are restored, besides the CPU's.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    accelerators = [] if device.type in ("cpu", "meta") else [device]
    with torch.random.fork_rng(accelerators, device_type=device.type if accelerators else "cuda"), torch.no_grad():
        try:
            for module in modules:
                module.training = False
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode


def ordinary_tokens(model: CausalLM, length: int, device: torch.device) -> Tensor:
    """Return ``[1, length]``: tokens that are neither padding nor images nor anything else with a role of its own.

    Args:
        model: a causal language model, or a wrapper of one.
        length: how many; they differ from one another if the vocabulary is large enough.
        device: where to put them.
    """
    special = _special_ids(unwrapped(model).config) | _special_ids(text_config(model))
    # Without a size, tokens of low numbers: every vocabulary has those.
    size = getattr(text_config(model), "vocab_size", None) or length + len(special)
    ordinary = list(islice((token for token in range(size) if token not in special), length)) or [0]
    return torch.tensor(ordinary, device=device).repeat(-(-length // len(ordinary)))[None, :length]


def _special_ids(config: Any) -> set[int]:
    """Return the tokens that a configuration gives a role, in ``pad_token_id``, ``image_token_index`` and the like."""
    found: set[int] = set()
    for name, value in getattr(config, "__dict__", {}).items():
        if re.search(r"token_(id|ids|index)$", name):
            found.update(
                number for number in (value if isinstance(value, list) else [value]) if isinstance(number, int)
            )
    return found


@contextmanager
def _recorded_call(model: CausalLM) -> Iterator[list[tuple[Tensor, torch.dtype]]]:
    """Give a list that gets the head's input and the dtype of its output, for as long as the context lasts."""
    recorded: list[tuple[Tensor, torch.dtype]] = []
    head = unwrapped(model).get_output_embeddings()
    register = getattr(head, "register_forward_hook", None)
    handle = register(lambda _, inputs, output: recorded.append((inputs[0], output.dtype))) if register else None
    try:
        yield recorded
    finally:
        if handle is not None:
            handle.remove()


FULL_PRECISION_TOLERANCE = 1e-4
HALF_PRECISION_TOLERANCE = 2e-2


def largest_difference(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return by how much logits differ, and the largest one that was expected.

    Args:
        found: ``[..., V]``.
        expected: ``[..., V]``; may have ``-inf``, which must be at the same places.

    Returns:
        Both; the difference is infinite if a logit is finite on one side only.
    """
    expected = upcast(expected)
    finite = expected.isfinite() & found.isfinite()
    if not torch.equal(expected.isfinite(), found.isfinite()):
        return float("inf"), expected[finite].abs().max().item() if finite.any() else 0.0
    if not finite.any():
        return 0.0, 0.0
    return (found - expected)[finite].abs().max().item(), expected[finite].abs().max().item()


def tolerance_for(*dtypes: torch.dtype) -> float:
    """Return by which share of the largest logit two computations of logits may differ.

    A model in half precision rounds its own logits, and once more for every scale or softcap.

    Args:
        *dtypes: of all that logits are made of; the coarsest counts.
    """
    coarse = any(dtype not in (torch.float32, torch.float64) for dtype in dtypes)
    return HALF_PRECISION_TOLERANCE if coarse else FULL_PRECISION_TOLERANCE


def likely_cause(found: Tensor, probe: Probe) -> str:
    """Return a sentence on what is not understood of a model, as far as its logits tell; empty if they do not.

    Args:
        found: ``[1, T, V]``: the head's logits of the probe's hidden states.
        probe: what the model gave.
    """
    tolerance = tolerance_for(probe.hidden_states.dtype, probe.computed_in)
    expected = upcast(probe.logits[..., : found.shape[-1]])
    factor = (found * expected).nansum() / found.square().nansum()
    rest, magnitude = largest_difference(factor * found, expected)
    if magnitude > 0 and rest <= tolerance * magnitude:
        return f"The model's logits are the head's times {factor.item():.4g}; pass scale=... accordingly. "
    if probe.head_input is not None and not _parallel(probe.hidden_states, probe.head_input, tolerance):
        return (
            "What the model returns as its last hidden states is not what its output embeddings read: something "
            "comes between them. "
        )
    return ""


def _parallel(first: Tensor, second: Tensor, tolerance: float) -> bool:
    """Return whether one tensor is a multiple of the other."""
    if first.shape != second.shape:
        return False
    first, second = upcast(first), upcast(second)
    factor = (first * second).sum() / first.square().sum()
    return (factor * first - second).abs().max().item() <= tolerance * second.abs().max().item()
