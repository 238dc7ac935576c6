"""A checkpoint's files: written whole or not at all, read whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import torch.distributed as dist
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from dskd_components._version import __version__
from dskd_components.distributed.gathering import is_sharded
from dskd_components.errors import CheckpointError
from dskd_components.loss.checkpoints.description import Description
from dskd_components.loss.checkpoints.tensors import checkpoint_tensors, digest_of, fill, whole
from dskd_components.models.head import describe
from dskd_components.spec.dskd_spec import DSKDSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn


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


EARLIER: Final = "Take an earlier checkpoint."


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint that was read.

    Args:
        file: where it was read from.
        description: what it is of.
        tensors: by name, on the CPU.
    """

    file: Path
    description: Description
    tensors: dict[str, Tensor]

    def spec(self) -> DSKDSpec:
        """Return the spec that the projectors were trained with.

        Raises:
            CheckpointError: a component of it is not installed, or knows other options than it did.
        """
        try:
            return DSKDSpec.model_validate(self.description.spec)
        except ValidationError as error:
            plugins = ", ".join(f"{name} {version}" for name, version in self.description.plugins.items())
            raise CheckpointError(
                f"{self.file}: the saved spec cannot be built here: {_in_one_line(error)}. It was saved by "
                f"dskd_components {self.description.library_version} with the plugins {plugins or '(none)'}; install "
                "what is missing. For components of your own that no plugin registers, build the loss by "
                "DSKDLoss.from_models and call its restore."
            ) from error

    def restore(self, loss: nn.Module) -> None:
        """Copy the tensors into a loss; all or none.

        Args:
            loss: the loss.

        Raises:
            CheckpointError: a tensor is missing, not expected, or of another shape or precision, or ranks share it.
        """
        own = checkpoint_tensors(loss)
        sharded = [name for name, tensor in own.items() if is_sharded(tensor)]
        if sharded:
            raise CheckpointError(
                f"{self.file}: the loss is sharded already ({sharded[0]!r}). Restore it before it is wrapped."
            )
        lines = [
            f"  {name}: saved {_described(self.tensors.get(name))}, here {_described(own.get(name))}"
            for name in sorted(own.keys() | self.tensors.keys())
            if _described(self.tensors.get(name)) != _described(own.get(name))
        ]
        if lines:
            raise CheckpointError(
                f"{self.file}: expected the tensors of this loss, but there are differences:\n"
                + "\n".join(lines)
                + "\nBuild the loss with the spec and the models that the projectors were trained with, in the same "
                "precision (loss_fn.float()); nothing was loaded."
            )
        fill(loss, self.tensors)


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Read what `DSKDLoss.save` has written. Nothing in the files is executed.

    Args:
        folder: the folder.

    Raises:
        CheckpointError: there is nothing, it is damaged, or a newer version of this library has written it.
    """
    file = Path(folder) / TENSORS_FILE
    if not file.is_file():
        raise CheckpointError(
            f"{folder}: expected a folder with {TENSORS_FILE}, as DSKDLoss.save writes it, but there is none"
            f"{_neighbours(Path(folder))}."
        )
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # it is no mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: it is damaged, or no safetensors file: {error}. {EARLIER}") from error
    header, digest = metadata.get(HEADER), metadata.get(DIGEST)
    if header is None:
        raise CheckpointError(f"{file}: it was not written by DSKDLoss.save, so what it is of is not known.")
    if digest_of(tensors) != digest:
        raise CheckpointError(f"{file}: its tensors are not those that were saved, so it is damaged. {EARLIER}")
    description = _description(file, header)
    _require_same_copy(Path(folder) / DESCRIPTION_FILE, description)
    return Checkpoint(file, description, tensors)


def _neighbours(folder: Path) -> str:
    """Say which folders nearby have what this one has not."""
    found = sorted(str(path.parent) for path in folder.glob(f"*/{TENSORS_FILE}")) if folder.is_dir() else []
    return f" (there is one in {', '.join(found)})" if found else ""


def _description(file: Path, header: str) -> Description:
    try:
        content = json.loads(header)
        newer = isinstance(content, dict) and content.get("format") != 1
        return Description.model_validate(content)
    except ValidationError as error:
        if newer:
            raise CheckpointError(
                f"{file}: expected format 1, got {content.get('format')!r}, written by dskd_components "
                f"{content.get('library_version')}; this is {__version__}. Install that version."
            ) from error
        raise CheckpointError(f"{file}: its description is damaged: {_in_one_line(error)}. {EARLIER}") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: its description is no JSON: {error}. {EARLIER}") from error


def _require_same_copy(file: Path, description: Description) -> None:
    """Refuse a copy for people that says something else: whoever wrote it meant something by it."""
    try:
        copy = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{file}: it cannot be read as JSON: {error}. Delete it: {TENSORS_FILE} holds all that it says."
        ) from error
    if copy != description.model_dump(mode="json"):
        raise CheckpointError(
            f"{file}: it was changed, or is of another checkpoint: it differs from what {TENSORS_FILE} says of itself. "
            "Delete it to go by that; to train on with another spec, build DSKDLoss.from_models with it and call "
            "restore(folder, accept=[...])."
        )


def _described(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else describe(tensor)


def _in_one_line(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors())
