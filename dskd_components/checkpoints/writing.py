"""Writing a checkpoint so that whoever reads it finds the old one or the new one, never half of one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from dskd_components.checkpoints.digest import digest_of
from dskd_components.checkpoints.lasting import whole
from dskd_components.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dskd_components.checkpoints.description import Description

TENSORS_FILE: Final = "projectors.safetensors"
"""Holds the tensors, and in its header the description: one file, so that both are always of one state."""

DESCRIPTION_FILE: Final = "projectors.json"
"""Repeats the description, for people and programs that read no safetensors."""

HEADER: Final = "dskd_components"
"""The key of the description in the header."""

DIGEST: Final = "dskd_components.digest"
"""The key of the tensors' digest in the header."""


def write_checkpoint(folder: str | Path, description: Description, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors and description into a folder, which may hold other files; an older checkpoint there is replaced.

    Args:
        folder: made if it is not there.
        description: of the loss.
        tensors: its tensors. Under several processes every rank may call, and must if ranks share tensors between
            them; rank 0 writes.

    Raises:
        CheckpointError: the folder cannot be written to, or holds files of these names that are of something else.
    """
    folder = Path(folder)
    gathered = {name: whole(tensor).contiguous().cpu() for name, tensor in tensors.items()}
    if dist.is_available() and dist.is_initialized() and dist.get_rank() != 0:
        return
    text = description.model_dump_json()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _require_own_files(folder)
        # With the copy gone first, a copy that is there is always that of the tensors beside it.
        (folder / DESCRIPTION_FILE).unlink(missing_ok=True)
        _replace(folder / TENSORS_FILE, save(gathered, metadata={HEADER: text, DIGEST: digest_of(gathered)}))
        _replace(folder / DESCRIPTION_FILE, (json.dumps(json.loads(text), indent=2) + "\n").encode())
    except OSError as error:
        raise CheckpointError(
            f"{folder}: the projectors cannot be saved there: {error.strerror or error}. Give a folder that can be "
            "written to."
        ) from error


def _require_own_files(folder: Path) -> None:
    """Refuse to replace what this library has not written."""
    tensors, description = folder / TENSORS_FILE, folder / DESCRIPTION_FILE
    for file, is_own in ((tensors, _has_header), (description, _is_description)):
        if file.exists() and not is_own(file):
            raise CheckpointError(
                f"{file}: there is a file of this name that is not a checkpoint of dskd_components. It stays as it is; "
                "save to another folder, or move it away."
            )


def _has_header(file: Path) -> bool:
    try:
        with safe_open(file, framework="pt") as opened:
            return HEADER in (opened.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _is_description(file: Path) -> bool:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"format", "library_version", "spec"} <= content.keys()


def _replace(file: Path, content: bytes) -> None:
    """Put a file in the place of another, in one step that even a loss of power cannot halve."""
    unfinished = file.with_name(f".{file.name}.{uuid4().hex}")
    try:
        with unfinished.open("xb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
