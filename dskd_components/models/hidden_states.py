"""Running a causal model for its last hidden states, without paying for its logits."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dskd_components.errors import InputError
from dskd_components.models.aux_loss import asking_for_aux_loss, aux_loss_of
from dskd_components.models.wrappers import is_compiled, named_inputs, unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

    from dskd_components.models.aux_loss import AuxLoss
    from dskd_components.models.wrappers import CausalLM


def last_hidden_states(model: CausalLM, inputs: Mapping[str, Tensor]) -> Tensor:
    """Run a model and return the hidden states that its head reads.

    The call goes through the model's own forward, so that wrappers (compilation, adapters, data parallelism)
    see it. Logits are computed for the last position only: the model is told so where it takes ``logits_to_keep``,
    and its head is otherwise shown that position alone. Only a compiled model that does not take the option computes
    them all.

    Args:
        model: a causal language model, or a wrapper of one.
        inputs: the model's inputs by name: ``input_ids`` ``[B, T]`` and whatever else its forward takes.

    Returns:
        ``[B, T, d]``.

    Raises:
        InputError: the model returned no hidden states, or not one for each token.
    """
    return _last_hidden_states(model, _output_for_states(model, inputs), inputs)


def last_hidden_states_and_aux_loss(model: CausalLM, inputs: Mapping[str, Tensor]) -> tuple[Tensor, AuxLoss | None]:
    """Run a model as `last_hidden_states` does, and return its router's loss as well, if its configuration asks for it.

    Args:
        model: as there.
        inputs: as there.

    Raises:
        InputError: as there, or it is not known how the model weighs the loss.
    """
    output = _output_for_states(model, inputs, **asking_for_aux_loss(model))
    return _last_hidden_states(model, output, inputs), aux_loss_of(model, output)


def _output_for_states(model: CausalLM, inputs: Mapping[str, Tensor], **options: Any) -> Any:
    """Return a model's output with hidden states of all positions, and logits of the last alone."""
    if "logits_to_keep" in named_inputs(model):
        options["logits_to_keep"] = 1
    # A hook that was there during compilation stays in what is compiled, and would cut the logits of later calls.
    narrowing = nullcontext() if is_compiled(model) else _head_sees_last_position(model)
    with narrowing:
        return run_for_states(model, inputs, **options)


def _last_hidden_states(model: CausalLM, output: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the last hidden states of a model's output, once it is known that each token has one."""
    hidden_states = states_of(model, output)
    expected = inputs["input_ids"].shape
    if hidden_states.shape[:2] != expected:
        raise InputError(
            f"{type(unwrapped(model)).__name__} returned hidden states {list(hidden_states.shape)} for input_ids "
            f"{list(expected)}; expected one for each token. Models that put tokens in front (prompt tuning) or leave "
            "some out cannot be run by the loss: pass LMStates(hidden_states=...) of the tokens to it yourself."
        )
    return hidden_states


def run_for_states(model: CausalLM, inputs: Mapping[str, Tensor], **options: Any) -> Any:
    """Run a model from outside of its wrappers so that its output has hidden states.

    Args:
        model: a causal language model, or a wrapper of one.
        inputs: by name.
        **options: other arguments of its forward.
    """
    # A cache is of no use for one pass, and contradicts gradient checkpointing.
    return model(**inputs, output_hidden_states=-1, use_cache=False, **options)


def states_of(model: CausalLM, output: Any) -> Tensor:
    """Return the last hidden states of a model's output.

    Args:
        model: the model, for the message.
        output: what its forward returned.

    Raises:
        InputError: there are none.
    """
    hidden_states = getattr(output, "hidden_states", None)
    last = hidden_states[-1] if hidden_states else None
    if not isinstance(last, Tensor):
        raise InputError(
            f"{type(unwrapped(model)).__name__} returned no hidden states when asked with output_hidden_states. Pass "
            "LMStates(hidden_states=...) to the loss yourself."
        )
    return last


@contextmanager
def _head_sees_last_position(model: CausalLM) -> Iterator[None]:
    """Show the head the last position of ``[B, T, d]`` alone, for as long as the context lasts."""

    def narrowed(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        states, *others = arguments
        # With the strides of a slice, a product without gradients on a CPU copies the weight once for each sample.
        return (states[:, -1:].contiguous() if states.ndim == 3 else states, *others)

    head = unwrapped(model).get_output_embeddings()
    register = getattr(head, "register_forward_pre_hook", None)
    if register is None:
        yield
        return
    handle = register(narrowed)
    try:
        yield
    finally:
        handle.remove()
