"""What is wrong with states: with their tensors when they are made, with the values in them when a loss looks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from dskd_components.distributed.gathering import require_plain, require_tensor, require_whole
from dskd_components.errors import InputError, NonFiniteError
from dskd_components.models.head import describe, require_head
from dskd_components.models.host_reads import Check
from dskd_components.models.precision import overflow_advice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dskd_components.models.aux_loss import AuxLoss
    from dskd_components.models.head import Head


class _States(Protocol):
    """What is read of `LMStates`."""

    @property
    def hidden_states(self) -> Tensor: ...
    @property
    def targets(self) -> Tensor: ...
    @property
    def head(self) -> Head: ...
    @property
    def embedding(self) -> Tensor | None: ...
    @property
    def aux_loss(self) -> AuxLoss | None: ...
    @property
    def columns(self) -> Mapping[str, Tensor]: ...
    @property
    def scored(self) -> Tensor: ...
    @property
    def _possible(self) -> Tensor: ...


def require_fitting_tensors(states: _States) -> None:
    """Refuse tensors of other shapes, dtypes or devices than states are made of.

    Args:
        states: as they were given.

    Raises:
        InputError: one does not fit; the message names it.
    """
    hidden_states = states.hidden_states
    require_plain("LMStates.hidden_states", hidden_states)
    if hidden_states.ndim != 3 or not hidden_states.is_floating_point():
        raise InputError(
            "LMStates.hidden_states: expected a floating-point tensor [batch, length, hidden], "
            f"got {describe(hidden_states)}."
        )
    if 0 in hidden_states.shape:
        raise InputError(
            f"LMStates.hidden_states: the batch is empty (shape {list(hidden_states.shape)}). Expected at "
            "least one sample with one position; leave empty batches out."
        )
    require_tensor("LMStates.targets", states.targets)
    if states.targets.dtype != torch.int64:
        raise InputError(f"LMStates.targets: expected dtype int64, got {describe(states.targets)}.")
    for name in ("targets", "input_ids", "segment_ids"):
        _check_per_position(states, name)
    require_head("LMStates.head", states.head)
    if hidden_states.shape[-1] != states.head.hidden_size:
        raise InputError(
            f"LMStates.head: its weight reads hidden states of width {states.head.hidden_size}, but "
            f"hidden_states have width {hidden_states.shape[-1]}."
        )
    if states.embedding is not None:
        require_whole("LMStates.embedding", states.embedding)
    if states.embedding is not None and (states.embedding.ndim != 2 or not states.embedding.is_floating_point()):
        raise InputError(
            "LMStates.embedding: expected a floating-point tensor [vocabulary, width], "
            f"got {describe(states.embedding)}."
        )
    _check_device(states, "head.weight", states.head.local.weight)
    _check_device(states, "embedding", states.embedding)
    _check_aux_loss(states)
    _check_columns(states)


def _check_aux_loss(states: _States) -> None:
    if states.aux_loss is None:
        return
    value = states.aux_loss.value
    if value.numel() != 1 or not value.is_floating_point():
        raise InputError(f"LMStates.aux_loss: expected a value that is one number, got {describe(value)}.")


def _check_columns(states: _States) -> None:
    expected = list(states.hidden_states.shape[:2])
    for name, column in states.columns.items():
        if not isinstance(column, Tensor) or list(column.shape[:2]) != expected:
            found = describe(column) if isinstance(column, Tensor) else type(column).__name__
            raise InputError(
                f"LMStates.columns[{name!r}]: expected a tensor {expected} (as hidden_states), with further "
                f"dimensions behind these or without, got {found}."
            )
        _check_device(states, f"columns[{name!r}]", column)


def _check_per_position(states: _States, name: str) -> None:
    tensor: Tensor | None = getattr(states, name)
    if tensor is None:
        return
    require_tensor(f"LMStates.{name}", tensor)
    expected = list(states.hidden_states.shape[:2])
    if list(tensor.shape) != expected or tensor.is_floating_point():
        raise InputError(
            f"LMStates.{name}: expected an integer tensor {expected} (as hidden_states), got {describe(tensor)}."
        )
    _check_device(states, name, tensor)


def _check_device(states: _States, name: str, tensor: Tensor | None) -> None:
    if tensor is not None and tensor.device != states.hidden_states.device:
        raise InputError(
            f"LMStates.{name} is on {tensor.device}, hidden_states are on {states.hidden_states.device}. "
            "Move them to one device."
        )


def value_checks(states: _States, side: str) -> list[Check]:
    """Return what `LMStates.checked` looks at, to be read with other checks.

    Args:
        states: of one side.
        side: which one it is, for messages.
    """

    def complain_of_targets() -> None:
        row, position = (states.scored & ~states._possible).nonzero()[0].tolist()
        wrong = int(states.targets[row, position])
        subset = states.head.subset
        if subset is not None and 0 <= wrong < subset.vocabulary_size:
            raise InputError(
                f"{side}.targets: at [sample {row}, position {position}] the target is token {wrong}, which is not "
                f"among the {len(subset)} tokens that the {side}'s head is narrowed to, and others are left out. "
                "Add it to them, have others as one outcome ('one_outcome'), or set its label to -100."
            )
        size = states.head.token_count if subset is None else subset.vocabulary_size
        raise InputError(
            f"{side}.targets: expected ids from 0 to {size - 1} (the head's vocabulary) or -100, got {wrong}."
        )

    # The largest entry of a row is finite if all are, and takes no copy of them.
    finite = torch.linalg.vector_norm(states.hidden_states.detach(), math.inf, dim=-1).isfinite()
    damaged = states.scored & ~finite

    def complain_of_states() -> None:
        first = damaged.nonzero()[0].tolist()
        raise NonFiniteError(
            f"{side}.hidden_states: {int(damaged.sum())} scored positions hold NaN or infinity, the first at "
            f"[sample {first[0]}, position {first[1]}]. The model's forward pass has overflowed or its weights "
            f"are damaged.{overflow_advice(states.hidden_states.dtype)}"
        )

    outside = states.scored & ~states._possible
    of_columns = [
        _column_check(states, side, name, column)
        for name, column in states.columns.items()
        if column.is_floating_point()
    ]
    return [Check(outside.any(), complain_of_targets), Check(damaged.any(), complain_of_states), *of_columns]


def _column_check(states: _States, side: str, name: str, column: Tensor) -> Check:
    finite = column.detach().isfinite()
    damaged = states.scored & ~(finite.flatten(2).all(2) if column.ndim > 2 else finite)

    def complain() -> None:
        first = damaged.nonzero()[0].tolist()
        raise NonFiniteError(
            f"{side}.columns[{name!r}]: {int(damaged.sum())} scored positions hold NaN or infinity, the first at "
            f"[sample {first[0]}, position {first[1]}]."
        )

    return Check(damaged.any(), complain)
