"""`PartitionRows`: whole rows of a weight that ZeRO-3 has cut anywhere, on the ranks that have most of them.

ZeRO-3 lays a parameter out as one row of numbers and gives each rank a stretch of it, of equal length. A border lies
within a row of the weight as a rule: the rank that has the first number of such a row is sent the rest of it. That is
less than a row a rank, whatever the size of the weight.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from dskd_components.distributed.gathering import is_partitioned
from dskd_components.distributed.vocabulary_shards import VocabularyShards, all_gather

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor


class PartitionRows:
    """A rank's rows of a weight that is a constant.

    Args:
        weight: ``[V, d]``: a parameter of ZeRO-3.
        shards: which rows are whose.
    """

    def __init__(self, weight: Any, shards: VocabularyShards) -> None:
        self._weight = weight
        self.shards = shards

    @classmethod
    def of(cls, weight: Any) -> Self | None:
        """Return the rows of a parameter, or None where this cannot be: it is gathered at the moment, or not here.

        Args:
            weight: any parameter. Its gradient would be the engine's to reduce, so it must be a constant.

        Examples:
            >>> PartitionRows.of(torch.nn.Parameter(torch.ones(3, 2))) is None
            True
        """
        if not is_partitioned(weight) or weight.numel() == weight.ds_numel:
            return None
        part, shape, group = weight.ds_tensor, weight.ds_shape, weight.ds_process_group
        ranks, rank = dist.get_world_size(group), dist.get_rank(group)
        if len(shape) != 2 or ranks == 1 or part.device != weight.device or not _is_plain(part):
            return None
        rows, width = shape
        length = part.numel()
        if length < width:  # what is missing of a row would be on several ranks
            return None
        bounds = tuple(min(-(-place * length // width), rows) for place in range(ranks + 1))
        return cls(weight, VocabularyShards(group, rank, bounds, same_rows=False, device=part.device))

    @property
    def shape(self) -> tuple[int, int]:
        """The shape ``[V, d]`` of the whole weight."""
        rows, width = self._weight.ds_shape
        return rows, width

    @cached_property
    def own(self) -> Tensor:
        """``[n, d]``: this rank's rows. All ranks ask for it together."""
        part: Tensor = self._weight.ds_tensor.detach().flatten()
        width = self.shape[1]
        first, last = (bound * width - self.shards.rank * len(part) for bound in self._own_bounds)
        starts = part.new_empty(self.shards.ranks * width)
        all_gather(starts, part[:width].contiguous(), group=self.shards.group)
        missing = max(last - len(part), 0)
        following = (self.shards.rank + 1) % self.shards.ranks * width
        if last <= first:
            return part.new_empty(0, width)
        stretch: Tensor = torch.cat([part[first : min(last, len(part))], starts[following : following + missing]])
        return stretch.view(-1, width)

    @property
    def _own_bounds(self) -> tuple[int, int]:
        own = self.shards.own
        return own.start, own.stop


def _is_plain(part: Any) -> bool:
    """Return whether a rank's stretch of a parameter is there as it is, neither on a disk nor quantised."""
    status = getattr(getattr(part, "status", None), "name", "AVAILABLE")
    return status == "AVAILABLE" and part.is_floating_point() and not hasattr(part, "ds_quant_scale")
