"""Engines: how a batch's terms are computed. They differ in speed and memory, not in what comes out.

`eager` is the copy to read: the method as it is written down, a page long. `tiled` computes the same in tiles, with
its parts in the private package `_tiling`; `tests/engines` holds it to `eager`. `aligned_batch` brings the states of
both models together, `reduction` turns token values into terms, `workspace` keeps memory from step to step. Other rooms
may import every module without an underscore; users choose an engine by name in a spec.
"""

from dskd_components.engines.eager import Eager
from dskd_components.engines.engine import Engine
from dskd_components.engines.tiled import Tiled

__all__ = ["Eager", "Engine", "Tiled"]
