"""Projectors and aligner beside a checkpoint, as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from safetensors.torch import load_file, save_file

from dskd_components.errors import InputError

if TYPE_CHECKING:
    from dskd_components.loss import DSKDLoss

FOLDER: Final = "projectors"
"""The folder within a checkpoint."""

FILE: Final = "projectors.safetensors"


def save_projectors(loss_fn: DSKDLoss, checkpoint: str | Path) -> None:
    """Write the parameters of a loss into a checkpoint.

    Args:
        loss_fn: the loss.
        checkpoint: the folder of the checkpoint; made if it is not there.
    """
    folder = Path(checkpoint) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{FILE}.unfinished"
    tensors = {name: tensor.contiguous() for name, tensor in loss_fn.state_dict().items()}
    save_file(tensors, unfinished, metadata={"format": "pt"})
    unfinished.replace(folder / FILE)


def load_projectors(loss_fn: DSKDLoss, checkpoint: str | Path) -> None:
    """Read the parameters of a loss from a checkpoint.

    Args:
        loss_fn: the loss, made from the spec that the checkpoint was made with.
        checkpoint: the folder of the checkpoint.

    Raises:
        InputError: there are none, or they are of another loss; the message names what differs.
    """
    path = Path(checkpoint) / FOLDER / FILE
    if not path.is_file():
        raise InputError(
            f"{checkpoint}: no {FOLDER}/{FILE}, so the projectors cannot be resumed. It is no checkpoint of this "
            "library's trainer, or was not finished; resume from an earlier one."
        )
    saved = load_file(path)
    shapes = {name: list(tensor.shape) for name, tensor in saved.items()}
    expected = {name: list(tensor.shape) for name, tensor in loss_fn.state_dict().items()}
    differing = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
    if differing:
        name = differing[0]
        raise InputError(
            f"{path}: {len(differing)} tensors differ from the loss's, {name!r} among them: expected "
            f"{expected.get(name, 'none')}, got {shapes.get(name, 'none')}. Build the loss with the spec and the "
            "models that the checkpoint was made with."
        )
    loss_fn.load_state_dict(saved)
