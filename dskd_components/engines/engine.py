"""`Engine`: how the terms of a batch are computed. It never changes what is computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from dskd_components.contracts.component import FrozenModel

if TYPE_CHECKING:
    from dskd_components.engines.measurement import Measurement
    from dskd_components.meeting import Meeting
    from dskd_components.reduction import Reduction


class Engine(FrozenModel, ABC):
    """Options of an engine, and the way it takes from hidden states to terms."""

    name: str

    @abstractmethod
    def measure(self, meeting: Meeting, reduction: Reduction) -> Measurement:
        """Return loss and terms of a batch.

        Args:
            meeting: the states of both models, aligned.
            reduction: how token values become terms.
        """
