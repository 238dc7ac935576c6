"""A checkpoint's files: written whole or not at all, read whole or not at all."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final
from uuid import uuid4

import torch.distributed as dist
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors

from dskd_components._version import __version__
from dskd_components.distributed.gathering import is_sharded
from dskd_components.errors import CheckpointError, as_sentence
from dskd_components.loss.checkpoints.description import Description
from dskd_components.loss.checkpoints.tensors import checkpoint_tensors, digest_of, fill, whole
from dskd_components.models.head import describe
from dskd_components.spec.dskd_spec import DSKDSpec

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from torch import Tensor, nn


TENSORS_FILE: Final = "projectors.safetensors"
"""Holds the tensors, and in its header the description: one file, so that both are always of one state."""

DESCRIPTION_FILE: Final = "projectors.json"
"""Repeats the description, for people and programs that read no safetensors."""

HEADER: Final = "dskd_components"
"""The key of the description in the header."""

DIGEST: Final = "dskd_components.digest"
"""The key of the tensors' digest in the header."""


SAVE: Final = "dskd_components.save"
"""The key, in the header, of a number that checkpoints which were saved together have in common."""


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
    with _written(Path(folder), description, tensors, save=None) as unfinished:
        if unfinished is not None:
            unfinished.put_in_place()


def write_checkpoints(contents: Mapping[Path, tuple[Description, Mapping[str, Tensor]]]) -> None:
    """Write several checkpoints that are of one state; they are put in place together, once all of them are written.

    Args:
        contents: description and tensors by folder; as in `write_checkpoint`.

    Raises:
        CheckpointError: as in `write_checkpoint`.
    """
    save = uuid4().hex
    with ExitStack() as stack:
        written = [
            stack.enter_context(_written(folder, description, tensors, save=save))
            for folder, (description, tensors) in contents.items()
        ]
        for unfinished in written:
            if unfinished is not None:
                unfinished.put_in_place()


@dataclass(frozen=True)
class _Unfinished:
    """Both files of a checkpoint, whole, beside the places where they belong."""

    folder: Path
    tensors: Path
    description: Path

    def put_in_place(self) -> None:
        place, copy = self.folder / TENSORS_FILE, self.folder / DESCRIPTION_FILE
        with _naming(self.folder):
            own = self.tensors.stat()
            # With the copy gone first, a copy that is there is always that of the tensors beside it.
            copy.unlink(missing_ok=True)
            self.tensors.replace(place)
            self.description.replace(copy)
            if not os.path.samestat(own, place.stat()):
                # Somebody else has saved here meanwhile, and only the tensors tell which of the two copies is theirs.
                copy.unlink(missing_ok=True)


@contextmanager
def _written(
    folder: Path, description: Description, tensors: Mapping[str, Tensor], *, save: str | None
) -> Iterator[_Unfinished | None]:
    """Write both files of a checkpoint, to be put in place within the block; what was not is deleted.

    Yields:
        The files, on the rank that writes.
    """
    gathered = {name: whole(tensor).contiguous().cpu() for name, tensor in tensors.items()}
    if dist.is_available() and dist.is_initialized() and dist.get_rank() != 0:
        yield None
        return
    text = description.model_dump_json()
    header = {HEADER: text, DIGEST: digest_of(gathered)} | ({} if save is None else {SAVE: save})
    unfinished = _Unfinished(folder, *(folder / f".{name}.{uuid4().hex}" for name in (TENSORS_FILE, DESCRIPTION_FILE)))
    try:
        with _naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _require_own_files(folder)
            _write(unfinished.tensors, save_tensors(gathered, metadata=header))
            _write(unfinished.description, (json.dumps(json.loads(text), indent=2) + "\n").encode())
        del gathered  # Others may be written before this block ends.
        yield unfinished
    finally:
        for file in (unfinished.tensors, unfinished.description):
            with suppress(OSError):  # the folder could not be made, for example
                file.unlink(missing_ok=True)


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Say which folder cannot be written to."""
    try:
        yield
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
    except FileNotFoundError:  # somebody else is just replacing it
        return True
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"format", "library_version", "spec"} <= content.keys()


def _write(file: Path, content: bytes) -> None:
    """Write a new file that even a loss of power cannot halve once it is put in place."""
    with file.open("xb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


EARLIER: Final = "Take an earlier checkpoint."

ATTEMPTS: Final = 5
"""How often files that do not go together are read: others may be just replacing them, one after the other."""

WAIT: Final = 0.02
"""Seconds between two attempts."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint that was read.

    Args:
        file: where it was read from.
        description: what it is of.
        tensors: by name, on the CPU.
        save: what tells the save from others, if several checkpoints were saved together.
    """

    file: Path
    description: Description
    tensors: dict[str, Tensor]
    save: str | None = None

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
                f"{self.file}: the saved spec cannot be built here: {as_sentence(_in_one_line(error))} It was saved by "
                f"dskd_components {self.description.library_version} with the plugins {plugins or '(none)'}; install "
                "what is missing. For components of your own that no plugin registers, build the loss by "
                "DSKDLoss.from_models and call its restore."
            ) from error

    def restore(self, loss: nn.Module) -> None:
        """Copy the tensors into a loss; all or none.

        Args:
            loss: the loss.

        Raises:
            CheckpointError: as in `require_tensors_of`.
        """
        self.require_tensors_of(loss)
        fill(loss, self.tensors)

    def require_tensors_of(self, loss: nn.Module) -> None:
        """Refuse a loss that has other tensors.

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


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Read what `DSKDLoss.save` has written. Nothing in the files is executed.

    Others may save into the folder meanwhile: what is read is all of one save.

    Args:
        folder: the folder.

    Raises:
        CheckpointError: there is nothing, it is damaged, or a newer version of this library has written it.
    """
    file = Path(folder) / TENSORS_FILE
    attempts = 0
    while True:
        if not file.is_file():
            raise CheckpointError(
                f"{folder}: expected a folder with {TENSORS_FILE}, as DSKDLoss.save writes it, but there is none"
                f"{_neighbours(Path(folder))}."
            )
        # While this file is open, no newer one can be taken for it.
        with _opened(file) as opened:
            try:
                saved = _read(file)
            except CheckpointError:
                if _is_still(file, opened):
                    raise
                continue
            problem = _problem_of_copy(Path(folder) / DESCRIPTION_FILE, saved.description)
            if problem is None:
                return saved
            if not _is_still(file, opened):
                continue
        # Of two who save at once, one may have left its copy for an instant.
        attempts += 1
        if attempts == ATTEMPTS:
            raise CheckpointError(problem)
        time.sleep(WAIT)


def read_checkpoints(folders: Collection[Path]) -> list[Checkpoint]:
    """Read several checkpoints that are of one state.

    Args:
        folders: the folders. Checkpoints that were saved one by one go with any others.

    Raises:
        CheckpointError: as in `read_checkpoint`, or they were not saved together.
    """
    for attempt in range(ATTEMPTS):
        time.sleep(WAIT * attempt)
        found = [read_checkpoint(folder) for folder in folders]
        if len({saved.save for saved in found} - {None}) <= 1:
            return found
    names = ", ".join(str(folder) for folder in folders)
    raise CheckpointError(
        f"{names}: these checkpoints are not of one save, so they do not belong together: saving was cut short, or "
        f"folders were exchanged. {EARLIER}"
    )


def _opened(file: Path) -> IO[bytes]:
    try:
        return file.open("rb")
    except OSError as error:
        raise CheckpointError(f"{file}: it cannot be read: {error.strerror or error}. {EARLIER}") from error


def _is_still(file: Path, opened: IO[bytes]) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(opened.fileno()))
    except OSError:  # it is gone
        return False


def _read(file: Path) -> Checkpoint:
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # it is no mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file}: it is damaged, or no safetensors file: {as_sentence(error)} {EARLIER}"
        ) from error
    header, digest = metadata.get(HEADER), metadata.get(DIGEST)
    if header is None:
        raise CheckpointError(f"{file}: it was not written by DSKDLoss.save, so what it is of is not known.")
    if digest_of(tensors) != digest:
        raise CheckpointError(f"{file}: its tensors are not those that were saved, so it is damaged. {EARLIER}")
    return Checkpoint(file, parse_description(file, header), tensors, metadata.get(SAVE))


def _neighbours(folder: Path) -> str:
    """Say which folders nearby have what this one has not."""
    found = sorted(str(path.parent) for path in folder.glob(f"*/{TENSORS_FILE}")) if folder.is_dir() else []
    return f" (there is one in {', '.join(found)})" if found else ""


def parse_description(file: object, text: str) -> Description:
    """Read a description.

    Args:
        file: where it is from, for messages.
        text: JSON, as a header has it.

    Raises:
        CheckpointError: it is damaged, or a newer version of this library has written it.
    """
    try:
        content = json.loads(text)
        newer = isinstance(content, dict) and content.get("format") != 1
        return Description.model_validate(content)
    except ValidationError as error:
        if newer:
            raise CheckpointError(
                f"{file}: expected format 1, got {content.get('format')!r}, written by dskd_components "
                f"{content.get('library_version')}; this is {__version__}. Install that version."
            ) from error
        raise CheckpointError(
            f"{file}: its description is damaged: {as_sentence(_in_one_line(error))} {EARLIER}"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{file}: its description is no JSON: {as_sentence(error)} {EARLIER}") from error


def _problem_of_copy(file: Path, description: Description) -> str | None:
    """Say what is wrong with a copy for people that says something else: whoever wrote it meant something by it."""
    try:
        copy = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return (
            f"{file}: it cannot be read as JSON: {as_sentence(error)} Delete it: {TENSORS_FILE} holds all that it says."
        )
    if copy == description.model_dump(mode="json"):
        return None
    return (
        f"{file}: it was changed, or is of another checkpoint: it differs from what {TENSORS_FILE} says of itself. "
        "Delete it to go by that; to train on with another spec, build DSKDLoss.from_models with it and call "
        "restore(folder, accept=[...])."
    )


def _described(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else describe(tensor)


def _in_one_line(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors())
