"""What a loop around an `accelerate.Accelerator` needs: micro-batches with their count, and clipping."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from torch.distributed.fsdp import FSDPModule

from dskd_components.errors import ConfigurationError, InputError
from dskd_components.integrations.student_with_projectors import StudentWithProjectors
from dskd_components.loss.clipping import clip_grad_norms as clip_apart
from dskd_components.models.states import scored_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from accelerate import Accelerator
    from torch import Tensor, nn

    Batch = Mapping[str, Tensor]

INSTEAD_OF_CLIPPING: Final = {
    "DEEPSPEED": "DeepSpeed clips by itself: set gradient_clipping in its configuration, and leave this call out.",
    "FSDP": (
        "Call accelerator.clip_grad_norm_(model.parameters(), max_norm), which clips both together, or use FSDP2 "
        "(fsdp_version=2)."
    ),
}
"""What to do where an engine has flattened both, or keeps gradients to itself."""


def micro_batches(
    accelerator: Accelerator, model: nn.Module, window: Sequence[Batch]
) -> Iterator[tuple[Batch, Tensor]]:
    """Give the micro-batches of one optimizer step, each with what its loss divides by.

    Gradients of all but the last stay on their rank, so run forward *and* backward within the loop. Wrappers average
    over ranks, so multiply the loss by their number. Do not use ``accelerator.accumulate`` along with it::

        for batch, num_items in micro_batches(accelerator, model, window):
            out = model(batch, num_items_in_batch=num_items)
            accelerator.backward(out.loss * accelerator.num_processes)
        optimizer.step()

    Args:
        accelerator: with ``gradient_accumulation_steps=1``.
        model: a `StudentWithProjectors`, as ``accelerator.prepare`` returned it.
        window: this rank's micro-batches.

    Returns:
        Each batch, and the scored student tokens of all micro-batches of all ranks, a scalar.

    Raises:
        ConfigurationError: the accelerator divides losses by itself, or the model was not prepared for several
            processes, so that nothing would reduce its gradients.
    """
    if accelerator.gradient_accumulation_steps != 1:
        raise ConfigurationError(
            f"Accelerator(gradient_accumulation_steps={accelerator.gradient_accumulation_steps}) divides each loss by "
            "that number, but this loss is divided by tokens. Leave it at 1; the window is what accumulates."
        )
    wrapped = isinstance(model, FSDPModule) or accelerator.unwrap_model(model) is not model
    if accelerator.num_processes > 1 and not wrapped:
        raise ConfigurationError(
            f"{type(model).__name__} was not prepared, so nothing would reduce its gradients over "
            f"{accelerator.num_processes} processes. Put student and loss into one StudentWithProjectors and use what "
            "accelerator.prepare(model) returns."
        )
    count = accelerator.reduce(scored_tokens(window).to(accelerator.device), reduction="sum")
    for number, batch in enumerate(window, start=1):
        with nullcontext() if number == len(window) else accelerator.no_sync(model):
            yield batch, count


def clip_grad_norms(accelerator: Accelerator, model: nn.Module, max_norm: float | None) -> dict[str, Tensor]:
    """Clip the gradients of student and projectors, each to a norm of their own.

    In the place of ``accelerator.clip_grad_norm_(model.parameters(), max_norm)``, which would scale the student's
    gradient by the projectors'. Call it once a step, before ``optimizer.step()``, on all ranks.

    Args:
        accelerator: the accelerator. Gradients of float16 are unscaled, as its own function does.
        model: a `StudentWithProjectors`, as ``accelerator.prepare`` returned it.
        max_norm: the greatest 2-norm of each of both; None or 0: nothing is clipped.

    Returns:
        Both norms before clipping, for the log, as in `dskd_components.clip_grad_norms`.

    Raises:
        InputError: as there, or the model is another one.
        ConfigurationError: an engine clips by itself, student and projectors together: DeepSpeed, the older FSDP.
    """
    both = accelerator.unwrap_model(model)
    if not isinstance(both, StudentWithProjectors):
        raise InputError(f"model: expected a StudentWithProjectors, prepared or not, got {type(both).__name__}.")
    engine = str(accelerator.distributed_type.value)
    if engine in INSTEAD_OF_CLIPPING and not accelerator.is_fsdp2:
        raise ConfigurationError(
            f"{engine} holds student and projectors as one, so they cannot be clipped apart. "
            f"{INSTEAD_OF_CLIPPING[engine]}"
        )
    accelerator.unscale_gradients()
    return clip_apart(both.student, both.loss_fn, max_norm)
