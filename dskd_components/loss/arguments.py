"""What a loss may be built with: refusing a spec, sizes, heads and maps that do not go together."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch

from dskd_components.components.hookspecs import PROJECT_NAME
from dskd_components.components.lookup import default_registry
from dskd_components.components.text_methods import text_aligner_names
from dskd_components.distributed.gathering import require_tensor
from dskd_components.engines.vocabulary_overlap import are_narrowed_alike
from dskd_components.errors import ConfigurationError, InputError, what_came
from dskd_components.loss.checkpoints.description import components_of
from dskd_components.models.head import describe, require_head
from dskd_components.spec.dskd_spec import DSKDSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dskd_components.components.component import Component
    from dskd_components.engines.vocabulary_overlap import VocabularyOverlap
    from dskd_components.models.head import Head
    from dskd_components.models.states import Side


def require_spec(spec: object) -> DSKDSpec:
    """Return a spec, or refuse what is none, before something of it is used.

    Args:
        spec: must be a `DSKDSpec`.

    Raises:
        InputError: it is not.
    """
    if not isinstance(spec, DSKDSpec):
        raise InputError(
            f"DSKDLoss: expected a DSKDSpec, got {what_came(spec)}. Build one with DSKDSpec(...) or "
            "DSKDSpec.preset(name)."
        )
    return spec


def require_arguments(
    spec: object,
    hidden_sizes: Mapping[Side, int],
    heads: Mapping[Side, Head | None],
    teacher_to_student_ids: Tensor | None,
    same_token: Tensor | None,
) -> None:
    """Refuse arguments of `DSKDLoss` that are not what they should be, or do not go together.

    Args:
        spec: must be a spec, of components that have names of their own and read columns that are well named.
        hidden_sizes: must be positive integers.
        heads: by side, if given; must read hidden states of these sizes.
        teacher_to_student_ids: must be a row of ids, and there if the spec compares tokens across vocabularies.
        same_token: must be a row of truth values of that length.

    Raises:
        InputError: one of them is not; the message names it.
        ConfigurationError: a component has the name of another one, or a map is needed and missing.
    """
    spec = require_spec(spec)
    for side, size in hidden_sizes.items():
        if not isinstance(size, int) or size < 1:
            raise InputError(f"DSKDLoss: expected {side}_hidden_size to be a positive integer, got {size!r}.")
    _require_map(teacher_to_student_ids, same_token)
    _require_own_names(spec)
    _require_fitting_heads(heads, hidden_sizes)
    if teacher_to_student_ids is None and spec.needs_vocabulary_map:
        raise ConfigurationError(
            f"{' and '.join(spec.comparing_vocabularies)} must know which tokens the two vocabularies share, and the "
            f"aligner {spec.aligner.name!r} is for two tokenizers. Pass teacher_to_student_ids to DSKDLoss, or both "
            "tokenizers to DSKDLoss.from_models."
        )
    for side in hidden_sizes:
        spec.columns_read(side)  # refuses misnamed ones


def _require_map(ids: Tensor | None, same_token: Tensor | None) -> None:
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


def _require_own_names(spec: DSKDSpec) -> None:
    """Refuse a component that has the name of another one, as a class has that inherits it.

    Files and checkpoints hold names and options, and would be read as that other one.
    """
    for component in components_of(spec):
        cls = type(component)
        if cls.__module__.partition(".")[0] == PROJECT_NAME:
            continue
        takers = [
            info.component for info in default_registry().components(component.kind) if info.name == component.name
        ]
        if takers and not any(_is_same(cls, taker) for taker in takers):
            raise ConfigurationError(
                f"The {component.kind} {component.name!r} ({cls.__module__}.{cls.__qualname__}) has the name of "
                f"{takers[0].__module__}.{takers[0].__qualname__}: a saved spec or checkpoint would be read as that. "
                f'Give the class a name of its own: `name: Literal["my_{component.name}"] = "my_{component.name}"`.'
            )


def _is_same(cls: type[Component], other: type[Component]) -> bool:
    """Return whether two classes are one, or one that was imported twice, as by a script in its own package."""
    files = [getattr(sys.modules.get(one.__module__), "__file__", None) for one in (cls, other)]
    return cls is other or (cls.__qualname__ == other.__qualname__ and None not in files and files[0] == files[1])


def _require_fitting_heads(heads: Mapping[Side, Head | None], hidden_sizes: Mapping[Side, int]) -> None:
    for side, head in heads.items():
        if head is not None:
            require_head(f"DSKDLoss: {side}_head", head)
        if head is not None and head.hidden_size != hidden_sizes[side]:
            raise InputError(
                f"DSKDLoss: {side}_head reads hidden states of width {head.hidden_size}, but {side}_hidden_size is "
                f"{hidden_sizes[side]}."
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


def require_demands(spec: DSKDSpec, overlap: VocabularyOverlap | None, ids: Tensor | None, same: Tensor | None) -> None:
    """Refuse spaces that need another aligner, or more tokens in common than there are, as far as it is known.

    Args:
        spec: the choices.
        overlap: what the vocabularies of two heads have in common, if both are known.
        ids: ``[Vt]``, the student's id of each teacher token or -1; None: one vocabulary.
        same: ``[Vt]``, which of them are the very same token; None: all.

    Raises:
        ConfigurationError: a space needs a hard alignment, or more shared tokens; the message names it.
    """
    if not any(space.min_shared_tokens or space.needs_hard_alignment for space in spec.spaces):
        return
    shared = _count_shared(overlap, ids, same)
    for space in spec.spaces:
        if space.needs_hard_alignment and not spec.aligner.is_hard:
            hard = [name for name in text_aligner_names() if name != spec.aligner.name]
            raise ConfigurationError(
                f"The space {space.name!r} needs a hard alignment, in which it is settled before training what belongs "
                f"together, but the aligner {spec.aligner.name!r} weighs positions anew in each step. Use an aligner "
                f"such as {', '.join(map(repr, hard))} for two tokenizers, 'identity' for one, or leave it out."
            )
        if shared is not None and shared < space.min_shared_tokens:
            raise ConfigurationError(
                f"The space {space.name!r} needs {space.min_shared_tokens} or more tokens that both vocabularies have, "
                f"but these have {shared} in common. Check that the tokenizers (or teacher_to_student_ids, same_token "
                "or vocabulary_map) are those of the two models, or leave the space out."
            )


def _count_shared(overlap: VocabularyOverlap | None, ids: Tensor | None, same: Tensor | None) -> int | None:
    """Return how many tokens two vocabularies have in common, as far as can be told; None: it cannot be told."""
    if overlap is not None:
        return len(overlap.shared_tokens.student_ids)
    if ids is None:
        return None
    shared = ids >= 0 if same is None else (ids >= 0) & same
    return len(ids[shared].unique())
