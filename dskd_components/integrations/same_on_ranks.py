"""Whether all ranks train by the same loss, from the same teacher: found out before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from dskd_components.distributed import world_size
from dskd_components.errors import CheckpointError, ConfigurationError
from dskd_components.loss.checkpoints import Description, describe_loss, require_no_difference
from dskd_components.store.teacher_store import TeacherStore

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

    from torch import nn

    from dskd_components.loss.dskd_loss import DSKDLoss

WHAT_TO_DO: Final = (
    "Build the loss from one spec, one pair of models and one store on all ranks: each rank runs the same script, so "
    "look for what depends on the rank, such as a file that only some machines have, or a newer copy of it."
)


def require_same_on_ranks(loss_fn: DSKDLoss, teacher: nn.Module) -> None:
    """Refuse ranks that would train by different losses: their gradients would be averaged all the same.

    All ranks must call it together.

    Args:
        loss_fn: this rank's loss.
        teacher: this rank's teacher; of a `TeacherStore`, what it is of is compared.

    Raises:
        ConfigurationError: they differ, on every rank; the message names the ranks and has both values of all that
            differs.

    Examples:
        >>> require_same_on_ranks(None, None)  # one process agrees with itself
    """
    ranks = world_size()
    if ranks == 1:
        return
    own = {"loss": describe_loss(loss_fn).model_dump(mode="json"), "store": _store(teacher)}
    found: list[dict[str, Any]] = [{}] * ranks
    dist.all_gather_object(found, own)
    for rank, theirs in enumerate(found[1:], start=1):
        _require_equal(found[0], theirs, rank)


def _store(teacher: nn.Module) -> dict[str, Any] | None:
    """Return what a store is of; None of a teacher that is run."""
    if not isinstance(teacher, TeacherStore):
        return None
    manifest = teacher.manifest.model_dump(mode="json", exclude={"library_version", "options"})
    return {**manifest, "samples": len(teacher)}


def _require_equal(first: Mapping[str, Any], theirs: Mapping[str, Any], rank: int) -> None:
    try:
        require_no_difference(
            Description.model_validate(first["loss"]), Description.model_validate(theirs["loss"]), source=f"rank {rank}"
        )
    except CheckpointError as error:
        lines = [
            line.replace(": saved ", ": rank 0 ").replace(", here ", f", rank {rank} ")
            for line in str(error).splitlines()
            if line.startswith("  ")
        ]
        raise ConfigurationError(
            f"Rank {rank} has built another loss than rank 0:\n" + "\n".join(lines) + f"\n{WHAT_TO_DO}"
        ) from None
    ours, other = first["store"], theirs["store"]
    if ours == other:
        return
    if ours is None or other is None:
        alone = f"rank {rank}" if ours is None else "rank 0"
        raise ConfigurationError(
            f"Of rank 0 and rank {rank}, only {alone} reads its teacher from a store. {WHAT_TO_DO}"
        )
    lines = [
        f"  {name}: rank 0 {ours[name]!r}, rank {rank} {other[name]!r}" for name in ours if ours[name] != other[name]
    ]
    raise ConfigurationError(f"Rank {rank} reads another store than rank 0:\n" + "\n".join(lines) + f"\n{WHAT_TO_DO}")
