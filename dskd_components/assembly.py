"""Building the parts of a loss from its spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torch import nn

from dskd_components.components.projector import ProjectorHeads
from dskd_components.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dskd_components.components.space import Direction
    from dskd_components.models.head import Head
    from dskd_components.models.states import Side
    from dskd_components.spec.dskd_spec import DSKDSpec

ENDS: Final[Mapping[Direction, tuple[Side, Side]]] = {"t2s": ("teacher", "student"), "s2t": ("student", "teacher")}
"""The source and the target of each projection."""


def projector_heads(
    student: Head, teacher: Head, teacher_to_student_ids: Tensor | None, same_token: Tensor | None = None
) -> dict[Direction, ProjectorHeads]:
    """Return the heads at both ends of each projection, with the tokens that they share.

    Args:
        student: the student's head.
        teacher: the teacher's head.
        teacher_to_student_ids: ``[Vt]``, the student's id of each teacher token or -1; None: one vocabulary.
        same_token: ``[Vt]``, bool, which entries of the map are the very same token; None: all that are mapped.

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
        mapped = teacher_to_student_ids[: teacher.vocabulary_size].to(teacher.weight.device)
        shared = (mapped >= 0) & (mapped < student.vocabulary_size)
        if same_token is not None:
            shared = shared & same_token[: teacher.vocabulary_size].to(shared.device)
        teacher_ids = shared.nonzero().squeeze(1)
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
