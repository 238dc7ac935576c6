"""`BuiltSpace`: a space that an engine calls, with what was built for it, and the gradients to that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dskd_components.components.group_space import ComparedGroups, GroupSpace
from dskd_components.components.returned import broken_promise, require_metrics, require_terms
from dskd_components.components.space import SpaceResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dskd_components.components.space import ComparedRows, Space
    from dskd_components.engines.aligned_batch import AlignedBatch


class BuiltSpace:
    """A space of a batch. Its parameters and floating buffers are taken in the precision of what is computed.

    Args:
        batch: whose space it is.
        space: the space.
        dtype: what is computed in.
        as_leaves: whether gradients are summed here, over many small graphs that end at the parameters; else each call
            is a part of the one graph.
    """

    def __init__(self, batch: AlignedBatch, space: Space, dtype: torch.dtype, *, as_leaves: bool = False) -> None:
        self.space = space
        self._names = batch.names
        self._restricts = space.one_vocabulary and batch.common_ids is not None
        self._default = batch.measure.distance
        self._modules = batch.modules.get(space.name)
        self._sources: dict[str, Tensor] = {}
        self._tensors: Mapping[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        if self._modules is not None:
            named = [*self._modules.named_parameters(), *self._modules.named_buffers()]
            self._sources = {name: _widened(tensor, dtype) for name, tensor in named}
            self._tensors = self._sources
            if as_leaves:
                learning = torch.is_grad_enabled()
                self._tensors = {
                    name: tensor.detach().requires_grad_(learning and tensor.requires_grad)
                    for name, tensor in self._sources.items()
                }
                self._sums = {name: torch.zeros_like(self._tensors[name]) for name in self._learning}

    def found(self, compared: ComparedRows | ComparedGroups) -> SpaceResult:
        """Return what the space makes of rows or groups.

        Raises:
            PluginError: it is no result, or a name in it is that of something else.
        """
        sums = isinstance(compared, ComparedGroups)
        found: object = self._called(compared)
        if not isinstance(found, SpaceResult):
            raise broken_promise(self.space, f"{'combine' if sums else 'compare'}(...) to return a SpaceResult", found)
        like = compared.student_sizes if isinstance(compared, ComparedGroups) else compared.targets
        require_terms(self.space, found.terms, len(like), like)
        require_metrics(self.space, found.metrics)
        for name in (*found.terms, *found.metrics):
            self._names.claim(name, self.space)
        return found

    def _called(self, compared: ComparedRows | ComparedGroups) -> object:
        if self._modules is not None:
            return self._modules.called_with(self._tensors, self.space, compared, self._default)
        if isinstance(compared, ComparedGroups):
            assert isinstance(self.space, GroupSpace), "no other space is given groups"
            return self.space.combine(compared)
        return self.space.compare(compared)

    @property
    def reads_logits(self) -> bool:
        """Whether logits themselves are read: by the space, by what was built for it, or to leave some tokens out."""
        return self.space.reads_logits or self._modules is not None or self._restricts

    @property
    def _learning(self) -> list[str]:
        return [name for name, tensor in self._tensors.items() if tensor.requires_grad]

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors that learn, as calls read them."""
        return [self._tensors[name] for name in self._learning]

    def add_gradients(self, found: Sequence[Tensor | None]) -> None:
        """Add gradients to those of the calls before.

        Args:
            found: for each of `leaves`; None for none.
        """
        for name, gradient in zip(self._learning, found, strict=True):
            if gradient is not None:
                self._sums[name].add_(gradient)

    @property
    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """The tensors of the graph that learn, each with the sum of its gradients."""
        return [(self._sources[name], total) for name, total in self._sums.items()]


def _widened(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
