"""Which heads of a batch stay cut over ranks, and which are gathered for who must see all of their tokens."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal

import torch

from dskd_components.errors import DSKDWarning, InputError
from dskd_components.models.head_part import HeadPart

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dskd_components.components.space import Space
    from dskd_components.distributed.vocabulary_shards import VocabularyShards
    from dskd_components.engines.aligned_batch import AlignedBatch
    from dskd_components.models.head import Head
    from dskd_components.models.states import Side

VocabularyParallel = Literal["auto", "always", "never"]
"""Which heads stay cut: those of tensor parallelism, those of FSDP2 too, or none."""


SIDES: Final[tuple[Side, Side]] = ("student", "teacher")


def with_usable_heads(batches: Sequence[AlignedBatch], vocabulary_parallel: VocabularyParallel) -> list[AlignedBatch]:
    """Return batches in which each head that is cut may stay so.

    A head is gathered where a space reads logits themselves, or measures by a distance that is no sum over the
    vocabulary; a warning says so. All ranks call this.

    Args:
        batches: the batch as aligned with each teacher; the student is the same in all of them.
        vocabulary_parallel: which heads may stay cut.
    """
    if all(batch.side(side).head.shards is None for batch in batches for side in SIDES):
        return list(batches)
    student = batches[0].student.head
    if student.shards is not None and not _stays(student, "student", batches, vocabulary_parallel):
        student = student.gathered()
    teachers = [_teacher(batch, student, vocabulary_parallel) for batch in batches]
    if None in teachers:
        student = student.gathered()
        teachers = [_teacher(batch, student, vocabulary_parallel) for batch in batches]
    found = [
        _with_heads(batch, {"student": student, "teacher": teacher})
        for batch, teacher in zip(batches, teachers, strict=True)
        if teacher is not None
    ]
    for batch in found:
        for shards in dict.fromkeys(batch.side(side).head.shards for side in SIDES):
            if shards is not None and shards.same_rows:
                _require_one_batch(batch, shards)
    return found


def _require_one_batch(batch: AlignedBatch, shards: VocabularyShards) -> None:
    """Refuse ranks of tensor parallelism that have batches of their own, whose logits would be added up.

    Args:
        batch: this rank's.
        shards: the ranks; all of them call this.

    Raises:
        InputError: the batches differ, on every rank.
    """
    numbers = []
    for states in (batch.student, batch.teacher):
        targets = states.targets.flatten()
        places = torch.arange(1, len(targets) + 1, device=targets.device)
        numbers += [places[-1], (targets * places).sum()]
    own = torch.stack(numbers)
    found = shards.largest(torch.cat([own, -own]))
    if (found[: len(own)] != -found[len(own) :]).any():
        raise InputError(
            f"The {shards.ranks} ranks that share a head by tensor parallelism must have the same batch, and theirs "
            "differ. Let the sampler count data-parallel ranks only, those of the mesh's other dimension. If each rank "
            'has a batch of its own, shard the model with fully_shard (FSDP2) instead; the engine {"name": "tiled", '
            '"vocabulary_parallel": "never"} gathers heads.'
        )


def _teacher(batch: AlignedBatch, student: Head, vocabulary_parallel: VocabularyParallel) -> Head | None:
    """Return a teacher's head, cut as the student's is where a space reads both; None if that cannot be."""
    teacher = batch.teacher.head
    if teacher.shards is not None and not _stays(teacher, "teacher", [batch], vocabulary_parallel):
        teacher = teacher.gathered()
    if all(space.projector is not None for space in batch.spaces):
        return teacher
    if not isinstance(student, HeadPart):
        return teacher.gathered()
    return teacher if student.is_cut_like(teacher) else student.same_part_of(teacher.gathered())


def with_whole_heads(batches: Sequence[AlignedBatch]) -> list[AlignedBatch]:
    """Return batches whose heads are whole on each rank. All ranks call this.

    Args:
        batches: the batch as aligned with each teacher.
    """
    return [_with_heads(batch, {side: batch.side(side).head.gathered() for side in SIDES}) for batch in batches]


def _stays(head: Head, side: Side, batches: Sequence[AlignedBatch], vocabulary_parallel: VocabularyParallel) -> bool:
    assert head.shards is not None, "a head that is cut"
    if vocabulary_parallel == "never" or (vocabulary_parallel == "auto" and not head.shards.same_rows):
        return False
    obstacles = [_obstacle(batch, space) for batch in batches for space in batch.spaces if _reads(space, side)]
    if not head.shards.same_rows and len(batches) > 1:
        obstacles.append("with several teachers ranks would have to take turns")
    obstacle = next((found for found in obstacles if found is not None), None)
    if obstacle is not None:
        warnings.warn(
            f"The {side}'s head is cut over {head.shards.ranks} ranks, and is gathered in each step, since {obstacle}.",
            DSKDWarning,
            stacklevel=2,
        )
    return obstacle is None


def _reads(space: Space, side: Side) -> bool:
    """Return whether a space's logits come from a side's head: projected states are read by the space's own."""
    return space.projector is None or space.side == side


def _obstacle(batch: AlignedBatch, space: Space) -> str | None:
    """Return why a space cannot do with a part of the vocabulary; None if it can."""
    if space.reads_logits:
        return f"the space {space.name!r} reads logits themselves (reads_logits)"
    if batch.modules.get(space.name) is not None:
        return f"the space {space.name!r}, or a distance of it, has parameters"
    for distance in space.distances(batch.measure.distance):
        if not distance.sums_over_vocabulary:
            return f"the distance {distance.name!r} is no sum over the vocabulary (sums_over_vocabulary)"
    return None


def _with_heads(batch: AlignedBatch, heads: Mapping[Side, Head]) -> AlignedBatch:
    if all(batch.side(side).head is heads[side] for side in SIDES):
        return batch
    found = replace(
        batch,
        student=replace(batch.student, head=heads["student"]),
        teacher=replace(batch.teacher, head=heads["teacher"]),
        heads={
            "t2s": replace(batch.heads["t2s"], source=heads["teacher"], target=heads["student"]),
            "s2t": replace(batch.heads["s2t"], source=heads["student"], target=heads["teacher"]),
        },
    )
    if "positions" in vars(batch):
        vars(found)["positions"] = batch.positions  # they were read already, and are no head's matter
    return found
