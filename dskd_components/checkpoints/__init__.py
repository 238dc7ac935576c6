"""What a loss has learned, on disk: its tensors as safetensors, with what they were learned for.

`DSKDLoss.save`, `.restore` and `.load` are the way in.
"""

from dskd_components.checkpoints.description import Description, SavedLoss, describe_loss
from dskd_components.checkpoints.differences import require_no_difference
from dskd_components.checkpoints.head_fingerprint import HeadFingerprint
from dskd_components.checkpoints.lasting import fill, lasting_tensors
from dskd_components.checkpoints.reading import Saved, read_checkpoint
from dskd_components.checkpoints.writing import write_checkpoint

__all__ = [
    "Description",
    "HeadFingerprint",
    "Saved",
    "SavedLoss",
    "describe_loss",
    "fill",
    "lasting_tensors",
    "read_checkpoint",
    "require_no_difference",
    "write_checkpoint",
]
