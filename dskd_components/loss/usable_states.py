"""The states that a loss can compute with: refusing those that do not fit it, its components or one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dskd_components.distributed.gathering import is_in_parts
from dskd_components.errors import InputError
from dskd_components.models.host_reads import Check
from dskd_components.models.states import LMStates
from dskd_components.models.token_groups import TokenGroups

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from dskd_components.models.states import Side
    from dskd_components.spec.dskd_spec import DSKDSpec


def require_states(**sides: object) -> None:
    """Refuse what is given in the place of states, such as the models.

    Args:
        **sides: what was given, by side.

    Raises:
        InputError: one of them is something else.
    """
    for side, states in sides.items():
        if not isinstance(states, LMStates):
            raise InputError(
                f"{side}: expected LMStates, got {type(states).__name__}. Models are run on a batch by "
                "loss_fn.run(student, teacher, batch); LMStates.from_labels(...) is made of hidden states and a head."
            )


def require_matching_states(student: LMStates, teacher: LMStates, hidden_sizes: Mapping[Side, int]) -> None:
    """Refuse states that do not fit the loss or one another.

    Args:
        student: the student's states.
        teacher: the teacher's states.
        hidden_sizes: the widths that the loss was built for.

    Raises:
        InputError: a width, the number of samples, or a device differs; the message names it.
    """
    sides: tuple[tuple[Side, LMStates], ...] = (("student", student), ("teacher", teacher))
    for side, states in sides:
        if states.hidden_states.shape[2] != hidden_sizes[side]:
            raise InputError(
                f"{side}.hidden_states: expected width {hidden_sizes[side]} (this loss's {side}_hidden_size), got "
                f"shape {list(states.hidden_states.shape)}."
            )
    if len(student.targets) != len(teacher.targets):
        raise InputError(
            f"The student's batch has {len(student.targets)} samples, the teacher's {len(teacher.targets)}. Both must "
            "hold the same texts in the same order."
        )
    ours, theirs = (states.hidden_states.device for _, states in sides)
    if ours != theirs:
        raise InputError(
            f"The student's states are on {ours}, the teacher's on {theirs}. Both must be on one device: move the "
            f"teacher and its columns of the batch with .to({str(ours)!r})."
        )


def common_samples_checks(student: LMStates, teacher: LMStates) -> list[Check]:
    """Return checks that the samples of packed rows are known on both sides, and are as many where they are counted.

    Args:
        student: the student's states.
        teacher: the teacher's states.

    Returns:
        Checks that say in which row a sample of one side cannot be found on the other.
    """
    if len(student.targets) != len(teacher.targets):
        return []  # refused elsewhere
    sides: tuple[tuple[Side, LMStates], ...] = (("student", student), ("teacher", teacher))
    return [check for ours, theirs in (sides, sides[::-1]) for check in _samples_of_one_side(*ours, *theirs)]


def _samples_of_one_side(side: Side, states: LMStates, other: Side, others: LMStates) -> list[Check]:
    ids, theirs = states.segment_ids, others.segment_ids
    if ids is None or not (theirs is None or states.samples_are_counted or others.samples_are_counted):
        return []
    # Samples at the end that nobody scores, such as padding, need no partner.
    count = torch.ones_like(ids[:, 0]) if theirs is None else theirs.amax(1) + 1
    missing = states.scored & ((ids >= count[:, None]) | (ids < 0))

    def complain() -> None:
        row, position = missing.nonzero()[0].tolist()
        reason = (
            f"the {other} has no segment ids"
            if theirs is None
            else f"the {other}'s row has {int(count[row])} samples, counted by where position_ids start anew"
        )
        raise InputError(
            f"At [row {row}, position {position}] the {side} has sample {int(ids[row, position])} of a packed row, "
            f"but {reason}. Give both sides segment_ids, the same number for the same sample."
        )

    return [Check(missing.any(), complain)]


def require_columns(spec: DSKDSpec, student: LMStates, teacher: LMStates) -> None:
    """Refuse states without a column that a component of the spec reads.

    Args:
        spec: the choices.
        student: the student's states.
        teacher: the teacher's states.

    Raises:
        InputError: there is none of that name; the message says who reads it and how to fill it.
    """
    sides: tuple[tuple[Side, LMStates], ...] = (("student", student), ("teacher", teacher))
    for side, states in sides:
        for name, readers in spec.columns_read(side).items():
            if name not in states.columns:
                raise InputError(
                    f"{side}.columns has no {name!r}, which {readers} reads; it has "
                    f"{', '.join(map(repr, states.columns)) or 'none'}. Pass LMStates.from_labels(columns={{{name!r}: "
                    "...}), an entry for each token [batch, length]; or LMStates(columns=...), for each position that "
                    "of the token which it predicts."
                )


def require_parameters(loss: nn.Module, student: LMStates) -> None:
    """Refuse a loss whose parameters are elsewhere: on another device than the states, or in parts on several ranks.

    Args:
        loss: owns the parameters.
        student: the student's states.

    Raises:
        InputError: one of them is; the message names it.
    """
    here = student.hidden_states.device
    for name, parameter in loss.named_parameters():
        if is_in_parts(parameter):
            # How often a projector is read depends on a rank's tokens, so an engine that gathers it at each reading
            # would have ranks wait for one another, or hand them one another's data.
            raise InputError(
                f"The loss's {name} is in parts on several ranks while the loss is computed. Leave the loss out of the "
                "engine that does so (ZeRO-3), and call dskd_components.distributed.reduce_gradients(...) on it before "
                "each optimizer step; or shard it as one, fully_shard(loss_fn), and not its projectors."
            )
        if parameter.device != here:
            raise InputError(
                f"The loss's {name} is on {parameter.device}, the student's states are on {here}. Move the loss with "
                f".to({str(here)!r}) before its parameters are given to an optimizer."
            )


def validated_groups(
    alignment: Tensor | TokenGroups | None, student: LMStates, teacher: LMStates
) -> tuple[TokenGroups | None, list[Check]]:
    """Return a given correspondence as groups, once its shape is known to fit, with checks of what is in it.

    Args:
        alignment: groups, or the teacher position of each student position.
        student: the student's states.
        teacher: the teacher's states.

    Raises:
        InputError: it has an entry too many or too few, or is something else.
    """
    if alignment is None:
        return None, []
    checks: list[Check] = []
    if isinstance(alignment, Tensor):
        alignment, check = TokenGroups.of_index(alignment, teacher.targets.shape[1])
        checks.append(check)
    if not isinstance(alignment, TokenGroups):
        raise InputError(
            "alignment: expected a tensor, the teacher position of each student position, or TokenGroups, got "
            f"{type(alignment).__name__}."
        )
    for side, states, found in (("student", student, alignment.student), ("teacher", teacher, alignment.teacher)):
        if found.shape != states.targets.shape:
            raise InputError(
                f"alignment: expected {list(states.targets.shape)}, an entry for each {side} position, got "
                f"{list(found.shape)}."
            )
    return alignment, [*checks, alignment.check]
