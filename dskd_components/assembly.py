"""Building the parts of a loss from its spec, and refusing specs whose needs are not met."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from dskd_components.contracts.projector import ProjectorHeads
from dskd_components.errors import ConfigurationError, InputError
from dskd_components.head import Head, describe
from dskd_components.spec import DSKDSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dskd_components.contracts.space import Direction
    from dskd_components.states import Side

ENDS: Final[Mapping[Direction, tuple[Side, Side]]] = {"t2s": ("teacher", "student"), "s2t": ("student", "teacher")}
"""The source and the target of each projection."""


def projector_heads(
    student: Head, teacher: Head, teacher_to_student_ids: Tensor | None
) -> dict[Direction, ProjectorHeads]:
    """Return the heads at both ends of each projection, with the tokens that they share.

    Args:
        student: the student's head.
        teacher: the teacher's head.
        teacher_to_student_ids: ``[Vt]``, the student's id of each teacher token or -1; None: one vocabulary.

    Raises:
        InputError: the map is shorter than the teacher's vocabulary.
    """
    teacher_ids = student_ids = None
    if teacher_to_student_ids is not None:
        if len(teacher_to_student_ids) < teacher.vocabulary_size:
            raise InputError(
                f"teacher_to_student_ids: expected an entry for each of the {teacher.vocabulary_size} tokens of the "
                f"teacher, got {len(teacher_to_student_ids)}."
            )
        mapped = teacher_to_student_ids[: teacher.vocabulary_size]
        teacher_ids = ((mapped >= 0) & (mapped < student.vocabulary_size)).nonzero().squeeze(1)
        student_ids = mapped[teacher_ids]
    return {
        "t2s": ProjectorHeads(source=teacher, target=student, source_ids=teacher_ids, target_ids=student_ids),
        "s2t": ProjectorHeads(source=student, target=teacher, source_ids=student_ids, target_ids=teacher_ids),
    }


def build_projectors(
    spec: DSKDSpec, hidden_sizes: Mapping[Side, int], heads: Mapping[Direction, ProjectorHeads] | None
) -> nn.ModuleDict:
    """Build the projectors that the spec's spaces use.

    Args:
        spec: the choices.
        hidden_sizes: width of each side's hidden states.
        heads: the heads at both ends of each projection, if known.

    Raises:
        ConfigurationError: a projector is made from heads that are not given.
    """
    projectors = nn.ModuleDict()
    for direction in spec.directions:
        projector = spec.projector_for(direction)
        if projector.needs_heads and heads is None:
            raise ConfigurationError(
                f"{direction}_projector {projector.name!r} is made from the models' heads. Pass student_head=Head(...) "
                "and teacher_head=Head(...) to DSKDLoss, or use DSKDLoss.from_models."
            )
        source, target = ENDS[direction]
        projectors[direction] = projector.build(
            source_size=hidden_sizes[source],
            target_size=hidden_sizes[target],
            heads=None if heads is None else heads[direction],
        )
    return projectors


def require_arguments(spec: object, hidden_sizes: Mapping[Side, int], teacher_to_student_ids: Tensor | None) -> None:
    """Refuse arguments of `DSKDLoss` that are not what they should be.

    Args:
        spec: must be a spec.
        hidden_sizes: must be positive integers.
        teacher_to_student_ids: must be a row of ids.

    Raises:
        InputError: one of them is not; the message names it.
    """
    if not isinstance(spec, DSKDSpec):
        raise InputError(
            f"DSKDLoss: expected a DSKDSpec, got {spec!r}. Build one with DSKDSpec(...) or DSKDSpec.preset(name)."
        )
    for side, size in hidden_sizes.items():
        if not isinstance(size, int) or size < 1:
            raise InputError(f"DSKDLoss: expected {side}_hidden_size to be a positive integer, got {size!r}.")
    ids = teacher_to_student_ids
    if ids is not None and (ids.ndim != 1 or ids.dtype != torch.int64):
        raise InputError(
            "DSKDLoss: expected teacher_to_student_ids to be an int64 tensor [teacher vocabulary], got "
            f"{describe(ids)}."
        )


def require_vocabulary_map(spec: DSKDSpec, teacher_to_student_ids: Tensor | None) -> None:
    """Refuse a spec for two tokenizers that compares tokens across vocabularies without a map between them.

    Args:
        spec: the choices.
        teacher_to_student_ids: the map, or None.

    Raises:
        ConfigurationError: the map is needed and missing; the message names what needs it.
    """
    if teacher_to_student_ids is not None or spec.aligner.same_tokenizer:
        return
    needing = [f"the space {space.name!r}" for space in spec.spaces if space.needs_teacher_choice]
    for direction in spec.directions:
        projector = spec.projector_for(direction)
        if projector.needs_heads:
            needing.append(f"{direction}_projector {projector.name!r}")
    if needing:
        raise ConfigurationError(
            f"{' and '.join(needing)} must know which tokens the two vocabularies share, and the aligner "
            f"{spec.aligner.name!r} is for two tokenizers. Pass teacher_to_student_ids to DSKDLoss, or both "
            "tokenizers to DSKDLoss.from_models."
        )
