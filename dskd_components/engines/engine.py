"""`Engine`: how the terms of a batch are computed. It never changes what is computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict

from dskd_components.components.component import FrozenModel

if TYPE_CHECKING:
    from dskd_components.engines.measurement import Measurement
    from dskd_components.engines.workspace import Workspace
    from dskd_components.meeting import Meeting
    from dskd_components.reduction import Reduction


def _require_name(schema: dict[str, Any]) -> None:
    schema["required"] = ["name", *(field for field in schema.get("required", []) if field != "name")]


class Engine(FrozenModel, ABC):
    """Options of an engine, and the way it takes from hidden states to terms."""

    model_config = ConfigDict(json_schema_extra=_require_name)

    name: str

    @abstractmethod
    def measure(self, meeting: Meeting, reduction: Reduction, workspace: Workspace) -> Measurement:
        """Return loss and terms of a batch.

        Args:
            meeting: the states of both models, aligned.
            reduction: how token values become terms.
            workspace: memory for what exists during a step only.
        """
