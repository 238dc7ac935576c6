"""Tokenizers that are one but for added tokens: what the teacher reads and scores where it lacks a token."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from dskd_components.errors import ConfigurationError
from dskd_components.models.states import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dskd_components.components.component import Component
    from dskd_components.models.states import LMStates, Side
    from dskd_components.tokenization.shared_ids import SharedIds


def require_one_base(shared: SharedIds, component: Component) -> None:
    """Refuse tokenizers that differ in more than added tokens.

    Args:
        shared: which ids are the same token in both.
        component: what presumes one tokenizer.

    Raises:
        ConfigurationError: they are two.
    """
    if shared.of_one_base:
        return
    described = [
        f"{len(tokens)} of the {side}'s tokens ({tokens[0]!r} among them) are not the other's"
        for side, tokens in (("student", shared.student_only), ("teacher", shared.teacher_only))
        if tokens
    ]
    raise ConfigurationError(
        f"The {component.kind} {component.name!r} is for models that share a tokenizer, but these are two: "
        f"{', and '.join(described)}, under the same ids. Only added tokens may differ. Use a preset for two: "
        "'recommended-two-vocabularies', 'dskd-v2-eta' or 'dskd-cma'."
    )


def stand_in_of(teacher: Any, shared: SharedIds) -> int:
    """Return a shared token that says little: the teacher's unknown token, or the end of a text, or the first one.

    Args:
        teacher: its tokenizer.
        shared: which ids are the same token in both.
    """
    found: list[Any] = [getattr(teacher, f"{role}_token_id", None) for role in ("unk", "eos")]
    known = set(shared.ids.tolist())
    return next((int(number) for number in found if number in known), min(known, default=0))


def with_stand_ins(batch: Mapping[str, Tensor], teacher_to_student_ids: Tensor, stand_in: int) -> Mapping[str, Tensor]:
    """Return a batch in which the teacher does not read tokens of the student that it does not have.

    It reads a stand-in in their place, and scores neither them nor what they predict. A teacher with tokens of its own
    reads these as they are.

    Args:
        batch: columns of both, or such as serve both.
        teacher_to_student_ids: ``[Vt]``: shared ids as themselves, -1 for others.
        stand_in: the token to read.
    """
    ours, theirs = _column(batch, "student", "input_ids"), _column(batch, "teacher", "input_ids")
    labels = _column(batch, "teacher", "labels")
    if ours is None or theirs is None or labels is None or not _equal(ours, theirs):
        return batch
    lacking = (theirs >= 0) & ~_is_shared(theirs, teacher_to_student_ids.to(theirs.device))
    unpredicted = lacking.clone()
    unpredicted[:, 1:] |= lacking[:, :-1]
    return {
        **batch,
        "teacher_input_ids": theirs.masked_fill(lacking, stand_in),
        "teacher_labels": labels.masked_fill(unpredicted, IGNORE_INDEX),
    }


def scored_where_shared(student: LMStates, teacher: LMStates, teacher_to_student_ids: Tensor) -> LMStates:
    """Return the teacher's states without targets where either side's is a token that the other does not have.

    Args:
        student: the student's states.
        teacher: the teacher's states, position by position of the same text.
        teacher_to_student_ids: ``[Vt]``: shared ids as themselves, -1 for others.
    """
    if student.targets.shape != teacher.targets.shape:
        return teacher  # which the aligner refuses, in its own words
    lacking = torch.zeros_like(teacher.scored)
    for states in (student, teacher):
        lacking |= states.scored & ~_is_shared(states.targets, teacher_to_student_ids)
    return replace(teacher, targets=teacher.targets.masked_fill(lacking, IGNORE_INDEX))


def _is_shared(ids: Tensor, teacher_to_student_ids: Tensor) -> Tensor:
    """Return which ids are the same token on both sides."""
    known = (ids >= 0) & (ids < len(teacher_to_student_ids))
    return known & (teacher_to_student_ids[ids.where(known, 0)] == ids)


def _column(batch: Mapping[str, Tensor], side: Side, name: str) -> Tensor | None:
    return batch.get(f"{side}_{name}", batch.get(name))


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    return ours is theirs or (ours.shape == theirs.shape and ours.device == theirs.device and torch.equal(ours, theirs))
