"""What a loss needs beside an engine that spreads the models over ranks: DDP, FSDP2, Accelerate, DeepSpeed.

Without a process group each function does what is right for one process.
"""

from dskd_components.distributed.gathering import gathered

__all__ = ["gathered"]
