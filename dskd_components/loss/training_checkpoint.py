"""A training in one file: student, projectors, optimizer and step, replaced together or not at all."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Mapping
from contextlib import suppress
from glob import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dskd_components.distributed.gathering import is_sharded
from dskd_components.errors import CheckpointError, InputError, as_sentence, did_you_mean
from dskd_components.loss.checkpoints import (
    Checkpoint,
    checkpoint_tensors,
    describe_loss,
    parse_description,
    paths_to_accept,
    require_no_difference,
)
from dskd_components.loss.checkpoints.tensors import whole
from dskd_components.loss.dskd_loss import DSKDLoss
from dskd_components.loss.multi_teacher import MultiTeacherLoss, describe_losses
from dskd_components.models.head import describe
from dskd_components.models.in_place_of_model import require_model
from dskd_components.spec.schedules import checked_step

if TYPE_CHECKING:
    from collections.abc import Collection

    from dskd_components.loss.checkpoints import Description

FORMAT: Final = 1
"""How the file is laid out."""

KEY: Final = "dskd_components"
"""The key of the format, by which the file is known to be of this library."""

ABANDONED: Final = 600.0
"""Seconds after which nobody writes to an unfinished file any more."""

UNREADABLE: Final = (pickle.PickleError, TypeError, AttributeError)
"""What writing raises, or reading without executing anything, where a value is of a type that files do not keep."""

SHOWN: Final = 6
"""How many tensors a message lists."""


@runtime_checkable
class Stateful(Protocol):
    """What has a state to keep: optimizers, schedulers, scalers, samplers, modules."""

    def state_dict(self) -> Any:
        """Return the state."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take over a state."""


def save_checkpoint(
    path: str | Path,
    *,
    student: nn.Module | Mapping[str, Tensor],
    loss_fn: DSKDLoss | MultiTeacherLoss,
    step: int,
    **state: Any,
) -> None:
    """Write a training into one file, which replaces an older one in one step.

    Projectors and student are of use only together. Written one after the other, a kill in between leaves new
    projectors beside the old student, and nothing tells. After this function, killed or not, there is the old file or
    the new one. Under several processes every rank may call; rank 0 writes its own.

    Args:
        path: the file, ``"run/training.pt"`` for example; its folder is made.
        student: the student; or a mapping of tensors of it, as ``peft.get_peft_model_state_dict(student)`` gives.
        loss_fn: the loss; its projectors and aligner are written with what they have learned for, as by its ``save``.
        step: how many optimizer steps have been taken.
        **state: by any name, what else the next step depends on: optimizer, scheduler, scaler, or tensors, numbers,
            strings and containers of them, as ``generator=torch.get_rng_state()``.

    Raises:
        CheckpointError: the file cannot be written, or could not be read again: something in ``state`` is of a type
            that ``torch.load(weights_only=True)`` refuses, or the student is sharded over ranks.
        InputError: an argument is of the wrong kind.

    Examples:
        >>> from tempfile import mkdtemp
        >>> import torch
        >>> from dskd_components import DSKDLoss, DSKDSpec, load_checkpoint, save_checkpoint
        >>> student = torch.nn.Linear(4, 4)
        >>> loss_fn = DSKDLoss(DSKDSpec(), student_hidden_size=4, teacher_hidden_size=6)
        >>> optimizer = torch.optim.AdamW([*student.parameters(), *loss_fn.parameters()])
        >>> path = f"{mkdtemp()}/training.pt"
        >>> save_checkpoint(path, student=student, loss_fn=loss_fn, step=20, optimizer=optimizer)
        >>> load_checkpoint(path, student=student, loss_fn=loss_fn, optimizer=optimizer)["step"]
        20
    """
    if not isinstance(student, Mapping):
        require_model(student, "student", module=True)
    path = Path(path)
    losses = {
        name: {
            "description": description.model_dump_json(),
            "tensors": {key: whole(tensor).cpu().contiguous() for key, tensor in checkpoint_tensors(loss).items()},
        }
        for name, (loss, description) in _losses(loss_fn).items()
    }
    tensors = student.state_dict() if isinstance(student, nn.Module) else dict(student)
    _require_whole(tensors)
    if dist.is_available() and dist.is_initialized() and dist.get_rank() != 0:
        return
    _write(
        path,
        {
            KEY: FORMAT,
            "step": checked_step(step),
            "losses": losses,
            "student": tensors,
            "state": {name: value.state_dict() if _is_stateful(value) else value for name, value in state.items()},
            "objects": [name for name, value in state.items() if _is_stateful(value)],
        },
    )


def load_checkpoint(
    path: str | Path,
    *,
    student: nn.Module | None,
    loss_fn: DSKDLoss | MultiTeacherLoss,
    accept: Collection[str] = (),
    **state: Any,
) -> dict[str, Any]:
    """Take over what `save_checkpoint` has written; student and projectors once all else fits.

    Nothing in the file is executed.

    Args:
        path: the file.
        student: the student. None if only a part of it was saved: its tensors are then in what is returned.
        loss_fn: the loss, made from the spec that the file was made with.
        accept: differences of the loss that are meant, by the paths that the error names; see `DSKDLoss.restore`.
        **state: the objects that were saved, by the same names: ``optimizer=optimizer``. None leaves one out.

    Returns:
        ``"step"``, all values that are no objects, and the states of objects that were left out, by name.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it is of another student, spec, pair of models, or
            set of objects; the message has both values of all that differs.
        InputError: an argument is of the wrong kind.
    """
    accept = paths_to_accept(accept)
    if student is not None:
        require_model(student, "student", module=True)
    path = Path(path)
    content = _read(path)
    _require_names(path, content, state)
    if student is not None:
        _require_tensors_of(path, content["student"], student)
    losses = _losses(loss_fn)
    _require_teachers(path, content["losses"], losses)
    saved = [
        (loss, _saved_loss(path, content["losses"], name, loss, own, accept)) for name, (loss, own) in losses.items()
    ]
    for name, value in state.items():
        if value is not None:
            _load(path, name, value, content["state"][name])
    for loss, of_loss in saved:
        of_loss.restore(loss)
    if student is not None:
        student.load_state_dict(content["student"])
    left = {name: value for name, value in content["state"].items() if state.get(name) is None}
    return {"step": content["step"], **({} if student is not None else {"student": content["student"]}), **left}


def _losses(loss_fn: object) -> dict[str, tuple[DSKDLoss, Description]]:
    """Return the losses of single pairs with their descriptions, by the teacher's name."""
    if isinstance(loss_fn, MultiTeacherLoss):
        return {name: (loss_fn.pair(name), own) for name, own in describe_losses(loss_fn).items()}
    if isinstance(loss_fn, DSKDLoss):
        return {"": (loss_fn, describe_loss(loss_fn))}
    raise InputError(f"loss_fn: expected a DSKDLoss or a MultiTeacherLoss, got {type(loss_fn).__name__}.")


def _is_stateful(value: object) -> bool:
    return isinstance(value, Stateful)


def _require_whole(tensors: Mapping[str, Any]) -> None:
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and is_sharded(tensor):
            raise CheckpointError(
                f"student: {name!r} is sharded over ranks, so one file cannot hold it. Use "
                "torch.distributed.checkpoint, or accelerator.save_state with "
                "dskd_components.integrations.accelerate.register_projectors."
            )


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Write the file beside its place, make sure that it can be read, and put it there."""
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy_up(path)
        with unfinished.open("xb") as opened:
            torch.save(content, opened)
            opened.flush()
            os.fsync(opened.fileno())
        # Only its structure: tensors stay on the disk.
        torch.load(unfinished, weights_only=True, mmap=True)
        unfinished.replace(path)
    except UNREADABLE as error:
        parts = content["state"]
        refused = _unreadable(parts) or _unreadable({"student": content["student"]})
        raise CheckpointError(
            f"{path}: it was not written, because {' and '.join(refused) or 'something in it'} could not be read again "
            "without executing what is in it. Keep tensors, numbers, strings, or containers of these; for arrays, "
            "torch.from_numpy(array) or array.tolist()."
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"{path}: the training cannot be saved there: {error.strerror or error}. Give a file in a folder that can "
            "be written to."
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _unreadable(parts: Mapping[str, Any]) -> list[str]:
    """Return the names and types of values that can only be read by executing what is in them."""
    refused = []
    for name, value in parts.items():
        buffer = BytesIO()
        try:
            torch.save(value, buffer)
            buffer.seek(0)
            torch.load(buffer, weights_only=True)
        except UNREADABLE:
            refused.append(f"{name!r} ({type(value).__name__})")
    return refused


def _tidy_up(path: Path) -> None:
    """Delete what processes that were killed have left: it may be large."""
    for other in path.parent.glob(f".{escape(path.name)}.{'[0-9a-f]' * 32}"):
        with suppress(OSError):
            if time.time() - other.stat().st_mtime > ABANDONED:
                other.unlink()


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a file that save_checkpoint has written, but there is none.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: it is damaged, or not from save_checkpoint: {as_sentence(reason)}") from error
    if not isinstance(content, dict) or KEY not in content:
        raise CheckpointError(f"{path}: expected a file that save_checkpoint has written, but it is another one.")
    if content[KEY] != FORMAT:
        raise CheckpointError(
            f"{path}: expected format {FORMAT}, got {content[KEY]!r}. Install the version of dskd_components that "
            "wrote it."
        )
    return content


def _saved_loss(
    path: Path, losses: Mapping[str, Any], name: str, loss: DSKDLoss, own: Description, accept: Collection[str]
) -> Checkpoint:
    """Return what was saved of one pair, once it is known to fit the loss of that pair."""
    source = f"{path}, teacher {name!r}" if name else str(path)
    saved = Checkpoint(path, parse_description(source, losses[name]["description"]), losses[name]["tensors"], save=None)
    require_no_difference(saved.description, own, accept, source=source)
    saved.require_tensors_of(loss)
    return saved


def _require_teachers(path: Path, saved: Collection[str], own: Collection[str]) -> None:
    if set(saved) != set(own):
        before, now = ("one teacher" if set(names) == {""} else ", ".join(map(repr, names)) for names in (saved, own))
        raise CheckpointError(
            f"{path}: expected the teachers of this loss, but there are others: saved {before}, here {now}."
        )


def _require_names(path: Path, content: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        if name not in content["state"]:
            known = list(content["state"])
            raise CheckpointError(
                f"{path}: it has no {name!r}{did_you_mean(name, known)}; besides student and loss it has "
                f"{', '.join(known) or 'nothing'}."
            )
        if value is not None and name not in content["objects"]:
            raise InputError(f"{name}: it was saved as a plain value. Leave it out; it is in what is returned.")
        if value is not None and not _is_stateful(value):
            raise InputError(f"{name}: expected the object to restore, or None, got {type(value).__name__}.")
    for name in content["objects"]:
        if name not in state:
            raise CheckpointError(
                f"{path}: it has the state of {name!r}, which would be left out. Pass {name}={name}, or {name}=None if "
                "that is meant."
            )


def _require_tensors_of(path: Path, saved: Mapping[str, Any], student: nn.Module) -> None:
    own = student.state_dict()
    lines = [
        f"  {name}: saved {_described(saved, name)}, here {_described(own, name)}"
        for name in dict.fromkeys((*own, *saved))
        if _described(saved, name, dtype=False) != _described(own, name, dtype=False)
    ]
    if lines:
        more = f"\n  and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise CheckpointError(
            f"{path}: expected the tensors of this student, but there are differences:\n"
            + "\n".join(lines[:SHOWN])
            + f"{more}\nGive the student that was saved, in the same wrappers; nothing was loaded."
        )


def _described(tensors: Mapping[str, Any], name: str, *, dtype: bool = True) -> str:
    if name not in tensors:
        return "nothing"
    tensor = tensors[name]
    if not isinstance(tensor, Tensor):
        return type(tensor).__name__
    return describe(tensor) if dtype else str(list(tensor.shape))


def _load(path: Path, name: str, value: Any, state: Any) -> None:
    try:
        value.load_state_dict(state)
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"{path}: the state of {name!r} does not fit {type(value).__name__}: {as_sentence(error)}"
        ) from error
