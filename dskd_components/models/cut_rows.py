"""`joined_rows`: whole rows from ranks that have cut them by their length, as context and sequence parallelism do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from dskd_components.distributed.ranks import world_size
from dskd_components.distributed.vocabulary_shards import all_gather, reduce_scatter
from dskd_components.errors import InputError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from dskd_components.models.states import LMStates


def joined_rows(states: LMStates, *, group: ProcessGroup | None = None, positions: Tensor | None = None) -> LMStates:
    """Return the states of whole rows, from ranks each of which has run the model on a part of every row.

    Ring attention (``context_parallel``) and Ulysses leave each rank with the hidden states of its own positions. What
    the loss aligns lies anywhere in a row, so it needs whole ones; states are small beside logits. Every rank of the
    group then computes the loss of all these rows, and the gradient of a position goes back to the rank that has it.
    Count scored tokens on all ranks, as a training step does that knows nothing of this: a row counts once a rank, so
    that the ranks' losses add up to what one process has.

    All ranks of the group call this together.

    Args:
        states: of this rank's positions; their number is the same on all ranks. Targets are shifted before rows are
            cut, so that the last one of a part is the first token of the next.
        group: the ranks that have parts of the same rows; None: all.
        positions: ``[T_part]`` or ``[B, T_part]``, integer: where in the whole row each position lies, where parts are
            no runs, one after the other (a load balancer gives each rank an early and a late piece).

    Returns:
        States of ``[B, ranks * T_part]``, on every rank.

    Raises:
        InputError: parts are of different sizes, positions are not those of whole rows, or samples of packed rows are
            told apart by nothing but where they begin, which parts do not show.

    Examples:
        >>> from dskd_components import Head, LMStates
        >>> targets = torch.tensor([[1, 2]])
        >>> states = LMStates(hidden_states=torch.ones(1, 2, 3), targets=targets, head=Head(torch.ones(4, 3)))
        >>> joined_rows(states).targets  # one process has whole rows
        tensor([[1, 2]])
    """
    if world_size(group) == 1:
        return states
    _require_equal_parts(states, group)
    if states.samples_are_counted:
        raise InputError(
            "joined_rows: samples of packed rows are told apart by segment_ids, made before the rows are cut. "
            "Counting them where position_ids start anew finds other ones in each part."
        )
    order = None if positions is None else _order(states, positions, group)

    def joined(tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.bool:  # not every backend sends it
            return joined(tensor.byte()).bool()
        whole: Tensor = _Joined.apply(tensor, group)  # type: ignore[no-untyped-call]
        if order is None:
            return whole
        index = order.reshape(*order.shape, *(1 for _ in tensor.shape[2:])).expand(-1, -1, *tensor.shape[2:])
        return whole.gather(1, index)

    return replace(
        states,
        hidden_states=joined(states.hidden_states),
        targets=joined(states.targets),
        input_ids=None if states.input_ids is None else joined(states.input_ids),
        segment_ids=None if states.segment_ids is None else joined(states.segment_ids),
        columns={name: joined(column) for name, column in states.columns.items()},
    )


def _require_equal_parts(states: LMStates, group: ProcessGroup | None) -> None:
    own = torch.tensor(states.hidden_states.shape, device=states.targets.device)
    found = torch.cat([own, -own])
    dist.all_reduce(found, op=dist.ReduceOp.MAX, group=group)
    if (found[: len(own)] != -found[len(own) :]).any():
        raise InputError(
            f"joined_rows: expected parts of one size on all ranks, got {own.tolist()} on this one, and others. Pad "
            "rows to a multiple of the number of ranks before they are cut."
        )


def _order(states: LMStates, positions: Tensor, group: ProcessGroup | None) -> Tensor:
    """Return ``[B, T]``, int64: where in the joined parts each position of a whole row lies."""
    if positions.shape not in (states.targets.shape, states.targets.shape[1:]) or positions.is_floating_point():
        raise InputError(
            f"joined_rows: expected positions {list(states.targets.shape)}, as the targets, got "
            f"{list(positions.shape)}, {positions.dtype}."
        )
    own = positions.to(states.targets.device, torch.int64).expand_as(states.targets).contiguous()
    whole, order = _Joined.apply(own, group).sort(1)  # type: ignore[no-untyped-call]
    if (whole != torch.arange(whole.shape[1], device=whole.device)).any():
        raise InputError(
            f"joined_rows: expected the ranks' positions to be 0 to {whole.shape[1] - 1}, each once in a row, and they "
            "are not. Count them in the whole row, before it is cut; those of packed rows that start anew with each "
            "sample do not say where it lies."
        )
    found: Tensor = order
    return found


class _Joined(Function):
    """Puts parts ``[B, T_part, ...]`` one after the other; the gradient of a part is the sum of all ranks' for it."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: ProcessGroup | None) -> Tensor:
        ctx.group = group
        first = part.detach().transpose(0, 1).contiguous()
        whole = first.new_empty(len(first) * world_size(group), *first.shape[1:])
        all_gather(whole, first, group=group)
        return whole.transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        first = gradient.transpose(0, 1).contiguous()
        part = first.new_empty(len(first) // world_size(ctx.group), *first.shape[1:])
        reduce_scatter(part, first, group=ctx.group)
        return part.transpose(0, 1), None
