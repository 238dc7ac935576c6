"""What the passes of a model do, found by running it on the meta device: shapes are there, numbers are not.

Nothing is computed, so a model of any size is traced in seconds. Every operation is seen, so attention, checkpointing,
tied weights and whatever a model's code does are in the outcome without a formula for each.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import torch

from dskd_components.errors import ConfigurationError, InputError
from dskd_components.models.hidden_states import last_hidden_states
from dskd_components.models.wrappers import unwrapped
from dskd_components.preflight.operations import FusedAttention, Seen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from dskd_components.preflight.operations import Change, Work

WIDE: Final = 4
"""Bytes of a number in float32."""


@dataclass(frozen=True, eq=False)
class TracedModel:
    """What one batch costs of a model.

    Args:
        name: of its class.
        hidden_size: width d of its states.
        embedding_size: width of its input embedding.
        vocabulary: rows V of its head.
        parameters: bytes of each parameter.
        trained: bytes of each that is trained.
        numbers: how many numbers all parameters are together.
        units: bytes of each block of layers, which engines shard one by one.
        trained_head: bytes of the head if it is trained; else 0.
        dtype: of the head.
        tied: whether the head is the input embedding as well.
        forward: what the forward pass does.
        backward: what the backward pass does, recomputed activations included; None without it.
        forward_peak: the most that the forward pass holds at once.
        activations: bytes that are kept for the backward pass, hidden states included.
        backward_changes: what the backward pass takes and gives back.
    """

    name: str
    hidden_size: int
    embedding_size: int
    vocabulary: int
    parameters: tuple[int, ...]
    trained: tuple[int, ...]
    numbers: int
    units: tuple[int, ...]
    trained_head: int
    dtype: torch.dtype
    tied: bool
    forward: Work
    backward: Work | None
    forward_peak: int
    activations: int
    backward_changes: tuple[Change, ...] = field(repr=False, default=())

    @property
    def bytes(self) -> int:
        """All parameters."""
        return sum(self.parameters)

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return self.dtype.itemsize

    @property
    def root(self) -> int:
        """Bytes outside of the blocks of layers: embedding, head, last norm."""
        return self.bytes - sum(self.units)

    def backward_peak(self, gradients: float) -> int:
        """Return the most above what stays that the backward pass holds: activations, temporaries and gradients.

        Args:
            gradients: the share of the gradients that a device keeps.
        """
        sizes = (change.size * (gradients if change.of_gradient else 1.0) for change in self.backward_changes)
        return int(max(accumulate(sizes, initial=self.activations)))


def trace(
    model: Any, rows: int, length: int, *, trains: bool, fused_attention: bool = True, checkpointing: bool = False
) -> TracedModel:
    """Run a model on the meta device over full rows, without padding.

    Args:
        model: a causal language model whose parameters are on the meta device.
        rows: samples of the batch.
        length: tokens of each.
        trains: whether it is the student, which has a backward pass.
        fused_attention: whether `scaled_dot_product_attention` keeps no scores, as kernels for CPUs and GPUs do.
        checkpointing: whether blocks of layers are computed again for the backward pass.

    Raises:
        InputError: the model is not on the meta device, or cannot be run there.
        ConfigurationError: it does not support checkpointing.
    """
    if any(parameter.device.type != "meta" for parameter in model.parameters()):
        raise InputError(
            "model: expected parameters on the meta device, where nothing is computed. Build it under "
            "`with torch.device('meta'):`."
        )
    model.train(trains)
    learning = [parameter for parameter in model.parameters() if trains and parameter.requires_grad]
    ids = torch.zeros(rows, length, dtype=torch.int64, device="meta")
    seen = Seen()
    seen.know((*model.parameters(), *model.buffers(), ids))
    attention = FusedAttention(seen, fused=fused_attention)
    _set_checkpointing(model, attention, on=checkpointing)
    try:
        with torch.set_grad_enabled(trains), seen, attention:
            states = last_hidden_states(model, {"input_ids": ids})
            forward, peak, kept = seen.work(), seen.peak, seen.live
            seen.start_again()
            if learning:
                gradients = torch.autograd.grad(states, learning, torch.empty_like(states), allow_unused=True)
                seen.name_gradients(gradients)
    except InputError:
        raise
    except Exception as error:  # models are anybody's, and so are their errors
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{type(unwrapped(model)).__name__} cannot be run on the meta device: {type(error).__name__}: {reason}. A "
            "model whose code looks at numbers has no plan; preflight measures it."
        ) from error
    head: Tensor = unwrapped(model).get_output_embeddings().weight  # type: ignore[assignment,union-attr]
    embedding: Tensor = unwrapped(model).get_input_embeddings().weight  # type: ignore[assignment]
    return TracedModel(
        name=type(unwrapped(model)).__name__,
        hidden_size=head.shape[1],
        embedding_size=embedding.shape[1],
        vocabulary=len(head),
        parameters=tuple(parameter.nbytes for parameter in model.parameters()),
        trained=tuple(parameter.nbytes for parameter in learning),
        numbers=sum(parameter.numel() for parameter in model.parameters()),
        units=tuple(_units(model)),
        trained_head=head.nbytes if trains and head.requires_grad else 0,
        dtype=head.dtype,
        tied=head is embedding,
        forward=forward,
        backward=seen.work() if trains else None,
        forward_peak=peak,
        activations=kept,
        backward_changes=tuple(seen.changes()) if trains else (),
    )


def _set_checkpointing(model: Any, attention: FusedAttention, *, on: bool) -> None:
    if on:
        if not getattr(model, "supports_gradient_checkpointing", False):
            raise ConfigurationError(f"checkpointing: {type(model).__name__} does not support it.")
        # What is computed again has no mode around it but what it is given.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # its newer name is not in the lowest version that will do
            model.gradient_checkpointing_enable(
                {"use_reentrant": False, "context_fn": lambda: (nullcontext(), attention)}
            )
    elif any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_disable()


def _units(model: nn.Module) -> Iterator[int]:
    """Yield the bytes of each block of the longest list of layers, by parameters."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module)]
    largest = max(lists, key=_bytes, default=None)
    yield from () if largest is None else map(_bytes, largest)


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
