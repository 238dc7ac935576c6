"""Engines: how a batch's terms are computed. They differ in speed and memory, not in what comes out."""

from dskd_components.engines.eager import Eager
from dskd_components.engines.engine import Engine
from dskd_components.engines.tiled import Tiled

__all__ = ["Eager", "Engine", "Tiled"]
