"""Reading a checkpoint: all of it is understood before any of it is used."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from dskd_components._version import __version__
from dskd_components.checkpoints.description import Description
from dskd_components.checkpoints.digest import digest_of
from dskd_components.checkpoints.lasting import fill, lasting_tensors
from dskd_components.checkpoints.writing import DESCRIPTION_FILE, DIGEST, HEADER, TENSORS_FILE
from dskd_components.distributed.gathering import is_sharded
from dskd_components.errors import CheckpointError
from dskd_components.models.head import describe
from dskd_components.spec.dskd_spec import DSKDSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


EARLIER: Final = "Take an earlier checkpoint."


@dataclass(frozen=True, eq=False)
class Saved:
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
        own = lasting_tensors(loss)
        spread = [name for name, tensor in own.items() if is_sharded(tensor)]
        if spread:
            raise CheckpointError(
                f"{self.file}: the loss is spread over ranks already ({spread[0]!r}). Restore it before it is wrapped."
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


def read_checkpoint(folder: str | Path) -> Saved:
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
    return Saved(file, description, tensors)


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
