"""What a loss has learned, on disk: its tensors as safetensors, with what they were learned for.

`DSKDLoss.save`, `.restore` and `.load` are the way in. `description` says what a loss was learned for, `differences`
compares two of them, `tensors` says what is kept, `files` reads and writes. Import the names below.
"""

from dskd_components.loss.checkpoints.description import Description, HeadFingerprint, SavedLoss, describe_loss
from dskd_components.loss.checkpoints.differences import paths_to_accept, require_no_difference
from dskd_components.loss.checkpoints.files import (
    Checkpoint,
    parse_description,
    read_checkpoint,
    read_checkpoints,
    write_checkpoint,
    write_checkpoints,
)
from dskd_components.loss.checkpoints.tensors import checkpoint_tensors, fill

__all__ = [
    "Checkpoint",
    "Description",
    "HeadFingerprint",
    "SavedLoss",
    "checkpoint_tensors",
    "describe_loss",
    "fill",
    "parse_description",
    "paths_to_accept",
    "read_checkpoint",
    "read_checkpoints",
    "require_no_difference",
    "write_checkpoint",
    "write_checkpoints",
]
