"""`VocabularyShards`: how ranks have cut a vocabulary between them, and how numbers over all of it come together."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from torch import Tensor
    from torch.distributed import ProcessGroup


# By the names of PyTorch 2.13, or those before.
all_gather: Any = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)
reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or getattr(dist, "reduce_scatter_tensor", None)


@dataclass(frozen=True)
class VocabularyShards:
    """The rows of a weight, a run of them on each rank of a group.

    The ranks either have the same rows of a batch (tensor parallelism), or each has rows of its own (FSDP2), which then
    travel to all of them. All ranks call the methods together, with tensors of the same shapes.

    Args:
        group: the ranks.
        rank: this one, among them.
        bounds: ``ranks + 1`` numbers: rank r has the rows from ``bounds[r]`` up to ``bounds[r + 1]``.
        same_rows: whether the ranks have the same rows of a batch.
        device: what the ranks communicate from.
    """

    group: ProcessGroup
    rank: int
    bounds: tuple[int, ...]
    same_rows: bool
    device: torch.device

    @classmethod
    def of(cls, parameter: Any, *, same_rows: bool) -> Self | None:
        """Return how a DTensor is cut; None if not by its first dimension alone, over one dimension of a mesh.

        Args:
            parameter: the DTensor.
            same_rows: as in the class.
        """
        from torch.distributed.tensor import Shard

        mesh = parameter.device_mesh
        if mesh.ndim != 1 or mesh.size() == 1 or tuple(parameter.placements) != (Shard(0),):
            return None
        if parameter.device.type != mesh.device_type:  # offloaded
            return None
        # Exactly a Shard: strided ones are a subclass, and lie otherwise.
        if type(parameter.placements[0]) is not Shard:
            return None
        rows, ranks, rank = parameter.shape[0], mesh.size(), mesh.get_local_rank()
        chunk = math.ceil(rows / ranks)
        bounds = tuple(min(place * chunk, rows) for place in range(ranks + 1))
        if parameter.to_local().shape[0] != bounds[rank + 1] - bounds[rank]:
            return None
        return cls(mesh.get_group(), rank, bounds, same_rows, parameter.to_local().device)

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return len(self.bounds) - 1

    @property
    def own(self) -> slice:
        """The rows of this rank."""
        return slice(self.bounds[self.rank], self.bounds[self.rank + 1])

    def up_to(self, size: int) -> Self:
        """Return the same cut of the first rows only, so that padding belongs to nobody.

        Args:
            size: how many of the rows there are.
        """
        return replace(self, bounds=tuple(min(bound, size) for bound in self.bounds))

    def among(self, before: Sequence[int]) -> Self:
        """Return the cut of some rows, numbered anew.

        Args:
            before: for each of the bounds, how many of the rows lie before it.
        """
        return replace(self, bounds=tuple(before))

    @property
    def leave_nobody_out(self) -> bool:
        """Whether every rank has a row."""
        return all(start < stop for start, stop in zip(self.bounds, self.bounds[1:], strict=False))

    @property
    def widest(self) -> int:
        """The rows of the rank that has most."""
        return max(stop - start for start, stop in zip(self.bounds, self.bounds[1:], strict=False))

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum over ranks; the tensor may be overwritten."""
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def largest(self, tensor: Tensor) -> Tensor:
        """Return the largest entries over ranks; the tensor may be overwritten."""
        return self._reduced(tensor, dist.ReduceOp.MAX)

    def smallest(self, tensor: Tensor) -> Tensor:
        """Return the smallest entries over ranks; the tensor may be overwritten."""
        return self._reduced(tensor, dist.ReduceOp.MIN)

    def _reduced(self, tensor: Tensor, operation: Any) -> Tensor:
        if tensor.numel() == 0:
            return tensor
        tensor = tensor.contiguous()
        dist.all_reduce(tensor, op=operation, group=self.group)
        return tensor

    def rows_of_all(self, own: Tensor, most: int) -> Tensor:
        """Return the rows of all ranks, one rank after the other; where they have the same rows, these.

        Args:
            own: ``[n, ...]``: this rank's rows.
            most: how many rows each rank gives: zeros follow those that it has. Not fewer than any rank has.

        Returns:
            ``[ranks * most, ...]``.
        """
        if self.same_rows or most == 0:
            return own
        padded = own.new_zeros(most, *own.shape[1:])
        padded[: len(own)] = own
        found = own.new_empty(self.ranks * most, *own.shape[1:])
        all_gather(found, padded, group=self.group)
        return found

    def sum_of_own_rows(self, of_all: Tensor, length: int) -> Tensor:
        """Return the sum over ranks of what each has for this rank's rows: the way back from `rows_of_all`.

        Args:
            of_all: ``[ranks * most, ...]``.
            length: how many rows this rank has.
        """
        if len(of_all) == 0:
            return of_all
        if self.same_rows:
            return self.total(of_all)
        found = of_all.new_empty(len(of_all) // self.ranks, *of_all.shape[1:])
        reduce_scatter(found, of_all.contiguous(), group=self.group)
        return found[:length]

    def own_rows(self, of_all: Tensor, length: int) -> Tensor:
        """Return what all ranks have alike for this rank's rows.

        Args:
            of_all: ``[ranks * most, ...]``.
            length: how many rows this rank has.
        """
        if self.same_rows or len(of_all) == 0:
            return of_all
        most = len(of_all) // self.ranks
        return of_all[self.rank * most : self.rank * most + length]

    def picked_rows(self, own: Tensor, picked: slice | Tensor) -> Tensor:
        """Return some rows of the whole, on all ranks.

        Args:
            own: ``[n, ...]``: the rows that this rank has of the whole.
            picked: a slice of the whole, or ``[K]``, int64: which rows.
        """
        ids = picked
        if isinstance(ids, slice):
            ids = torch.arange(*ids.indices(self.bounds[-1]), device=own.device)
        here = ids - self.own.start
        elsewhere = ((here < 0) | (here >= len(own))).reshape(-1, *(1 for _ in own.shape[1:]))
        return self.total(own[here.clamp(0, len(own) - 1)].masked_fill_(elsewhere, 0))
