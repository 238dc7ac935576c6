"""`Engine`: how the terms of a batch are computed. It never changes what is computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import ConfigDict

from dskd_components.components.component import FrozenModel, require_name_in_schema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dskd_components.components.terms import Tally
    from dskd_components.engines.aligned_batch import AlignedBatch
    from dskd_components.engines.reduction import Reduction
    from dskd_components.engines.workspace import Workspace


BLOCK_TENSORS: Final = 8
"""How many tensors of a block's size a comparison holds at once: log-probabilities, probabilities, gradients. Distances
that go through autograd may hold some more."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Measurement:
    """The student's cross entropy and the terms of one teacher's spaces, reduced.

    Args:
        loss: scalar, nats, part of the graph: the weighted sum of the terms, as `LossWeights` has it. With several
            teachers, only the sum of their losses has the right gradient.
        values: each term under the spec's reduction, before its weight; ``ce`` among them, if it is wanted.
        counts: the number of tokens that count in each term.
        metrics: numbers for the log.
    """

    loss: Tensor
    values: Mapping[str, Tensor]
    counts: Mapping[str, Tensor]
    metrics: Mapping[str, Tally]


class Engine(FrozenModel, ABC):
    """Options of an engine, and the way it takes from hidden states to terms."""

    model_config = ConfigDict(json_schema_extra=require_name_in_schema)

    name: str

    def kernels(self) -> str:
        """Return what has made products in this process, for reports; nothing if there was no choice."""
        return ""

    @abstractmethod
    def measure(
        self, batches: Sequence[AlignedBatch], reduction: Reduction, workspace: Workspace
    ) -> Sequence[Measurement]:
        """Return loss and terms of a batch, for each teacher.

        What the student alone is needed for may be computed once for all of them. Its gradient may come with any of the
        losses, so that it is right for their sum only.

        Args:
            batches: the batch as aligned with each teacher; the student is the same in all of them.
            reduction: how token values become terms.
            workspace: memory for what exists during a step only.

        Raises:
            InputError: a space cannot compare what has come to it; the message names the teacher if there are several.
        """
