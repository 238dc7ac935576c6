"""What a loop around an `accelerate.Accelerator` needs: micro-batches with their count, over all ranks."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from torch.distributed.fsdp import FSDPModule

from dskd_components.errors import ConfigurationError
from dskd_components.models.states import scored_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from accelerate import Accelerator
    from torch import Tensor, nn

    Batch = Mapping[str, Tensor]


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
