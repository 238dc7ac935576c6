"""What a loss may be built with: refusing a spec, sizes, heads and maps that do not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dskd_components.distributed.gathering import require_tensor
from dskd_components.engines.vocabulary_overlap import are_narrowed_alike
from dskd_components.errors import ConfigurationError, InputError
from dskd_components.models.head import describe, require_head
from dskd_components.spec.dskd_spec import DSKDSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dskd_components.models.head import Head
    from dskd_components.models.states import Side


def require_arguments(
    spec: object,
    hidden_sizes: Mapping[Side, int],
    teacher_to_student_ids: Tensor | None,
    same_token: Tensor | None,
) -> None:
    """Refuse arguments of `DSKDLoss` that are not what they should be.

    Args:
        spec: must be a spec.
        hidden_sizes: must be positive integers.
        teacher_to_student_ids: must be a row of ids.
        same_token: must be a row of truth values of that length.

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
    for name, tensor in (("teacher_to_student_ids", ids), ("same_token", same_token)):
        if tensor is not None:
            require_tensor(f"DSKDLoss: {name}", tensor)
    if ids is not None and (ids.ndim != 1 or ids.dtype != torch.int64):
        raise InputError(
            "DSKDLoss: expected teacher_to_student_ids to be an int64 tensor [teacher vocabulary], got "
            f"{describe(ids)}."
        )
    if same_token is not None and (ids is None or same_token.shape != ids.shape or same_token.dtype != torch.bool):
        raise InputError(
            "DSKDLoss: expected same_token to be a bool tensor with an entry for each of teacher_to_student_ids, got "
            f"{describe(same_token)}."
        )


def require_fitting_heads(heads: Mapping[Side, Head | None], hidden_sizes: Mapping[Side, int]) -> None:
    """Refuse heads that read hidden states of another width than the loss is built for.

    Args:
        heads: by side, if given.
        hidden_sizes: by side.

    Raises:
        InputError: a width differs, or it is no head; the message names the side.
    """
    for side, head in heads.items():
        if head is not None:
            require_head(f"DSKDLoss: {side}_head", head)
        if head is not None and head.hidden_size != hidden_sizes[side]:
            raise InputError(
                f"DSKDLoss: {side}_head reads hidden states of width {head.hidden_size}, but {side}_hidden_size is "
                f"{hidden_sizes[side]}."
            )


def require_vocabulary_map(spec: DSKDSpec, teacher_to_student_ids: Tensor | None) -> None:
    """Refuse a spec for two tokenizers that compares tokens across vocabularies without a map between them.

    Args:
        spec: the choices.
        teacher_to_student_ids: the map, or None.

    Raises:
        ConfigurationError: the map is needed and missing; the message names what needs it.
    """
    if teacher_to_student_ids is None and spec.needs_vocabulary_map:
        raise ConfigurationError(
            f"{' and '.join(spec.comparing_vocabularies)} must know which tokens the two vocabularies share, and the "
            f"aligner {spec.aligner.name!r} is for two tokenizers. Pass teacher_to_student_ids to DSKDLoss, or both "
            "tokenizers to DSKDLoss.from_models."
        )


def require_one_narrowing(spec: DSKDSpec, student: Head, teacher: Head) -> None:
    """Refuse heads that give different outcomes where a space compares two models' own logits token by token.

    Args:
        spec: the choices.
        student: the student's head.
        teacher: the teacher's head.

    Raises:
        ConfigurationError: one is narrowed, and the other is not or to other tokens.
    """
    for space in spec.spaces:
        if space.one_vocabulary and not are_narrowed_alike(student, teacher):
            raise ConfigurationError(
                f"The space {space.name!r} compares two models' own logits token by token, so their heads must be "
                f"narrowed to the same tokens, but the student's has {student.subset or 'all'} and the teacher's "
                f"{teacher.subset or 'all'}. Give the same ids as student_tokens and teacher_tokens."
            )
