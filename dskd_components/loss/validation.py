"""Refusing arguments of the loss that do not fit, and losses that are not finite, in words."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from dskd_components.components.returned import ADVICE, called
from dskd_components.components.terms import OF_STUDENT, Tally
from dskd_components.distributed.gathering import is_in_parts, local_part, require_tensor
from dskd_components.engines.vocabulary_overlap import are_narrowed_alike
from dskd_components.errors import ConfigurationError, InputError, NonFiniteError, did_you_mean
from dskd_components.models.batch import naming_teacher
from dskd_components.models.head import describe, require_head
from dskd_components.models.host_reads import Check
from dskd_components.models.offline_teacher import OfflineTeacher
from dskd_components.models.precision import overflow_advice
from dskd_components.models.states import LMStates
from dskd_components.models.token_groups import TokenGroups
from dskd_components.models.wrappers import unwrapped
from dskd_components.spec.dskd_spec import DSKDSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

    from dskd_components.engines.aligned_batch import AlignedBatch
    from dskd_components.engines.reduction import LossWeights
    from dskd_components.models.head import Head
    from dskd_components.models.states import Side
    from dskd_components.models.wrappers import CausalLM


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


KEPT_MASS_ROWS: Final = 256
"""Of how many positions the whole head's logits are looked at together."""


def kept_masses(batch: AlignedBatch) -> dict[str, Tally]:
    """Return the probability of the tokens that heads are narrowed to, over the scored positions of each side.

    It takes the whole head, so it is looked at where no gradient is asked for, as in evaluations, and not in training.

    Args:
        batch: what was measured.
    """
    if torch.is_grad_enabled():
        return {}
    sides: tuple[tuple[Side, LMStates], ...] = (("student", batch.student), ("teacher", batch.teacher))
    found = {}
    for side, states in sides:
        if states.head.subset is not None:
            rows = batch.positions.scored[side].rows_of(states.hidden_states)
            masses = [states.head.kept_mass(some).sum() for some in rows.split(KEPT_MASS_ROWS)]
            count = states.scored.sum()
            found[f"{side}_kept_mass"] = Tally(torch.stack([rows.new_zeros(()), *masses]).sum(), count)
    return found


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


def require_known_terms(weights: LossWeights, terms: Mapping[str, Tensor]) -> None:
    """Refuse weights for terms that there are not.

    Args:
        weights: of the loss.
        terms: the terms' values, by name.

    Raises:
        ConfigurationError: there is no such term; the message names those that there are.
    """
    known = [name for name in terms if name not in OF_STUDENT]
    for name in weights.by_term:
        if name not in known:
            raise ConfigurationError(
                f"weights[{name!r}]: this spec has no such term{did_you_mean(name, known)}; its spaces and its aligner "
                f"have {', '.join(known)}."
            )


ROWS: Final = 16
"""How many positions are looked at together."""


def finite_check(loss: Tensor, values: Mapping[str, Tensor], batch: AlignedBatch) -> Check:
    """Return the check that the loss is neither NaN nor infinite; it gives the reason if it is.

    Args:
        loss: scalar.
        values: the terms' values.
        batch: what the terms were computed from.
    """

    def complain() -> None:
        broken = [name for name, value in values.items() if not value.isfinite()] or ["their sum"]
        with naming_teacher(batch.teacher_name):
            raise NonFiniteError(f"The loss is {loss.item()}: {_reason(batch)} Terms at fault: {', '.join(broken)}.")

    return Check(~loss.detach().isfinite(), complain)


def _reason(batch: AlignedBatch) -> str:
    sides = (("student", batch.student), ("teacher", batch.teacher))
    for side, states in sides:
        damaged = _damaged(states)
        if damaged:
            return f"{side}.{damaged}.{overflow_advice(states.head.dtype)}"
    if any(states.head.shards is not None for _, states in sides):
        return (
            "logits overflow, a target is a token that a head rules out, a parameter of a projector or of the aligner "
            "is NaN or infinite, or a head is damaged on another rank."
        )
    for side, states in sides:
        if any((logits.isnan() | (logits == math.inf)).any() for logits, _ in _logits(states)):
            return f"the {side}'s logits overflow.{overflow_advice(states.head.dtype)}"
    for logits, targets in _logits(batch.student):
        if (logits.gather(1, targets[:, None]) == -math.inf).any():
            return "a target is a token that the student's head rules out (its logit is -inf)."
    likely = [
        "a parameter of a projector or of the aligner is NaN or infinite",
        "a token that one side asks for has probability 0 (a logit of -inf) on the other side",
        *(f"{called(own)} gives NaN or infinity where its arguments are finite" for own in _of_plugins(batch)),
    ]
    advice = f" {ADVICE}" if likely[2:] else ""
    return f"{', '.join(likely[:-1])}, or {likely[-1]}.{advice}"


def _of_plugins(batch: AlignedBatch) -> list[object]:
    """Return what has a part in a loss and is not this library's own."""
    distances = [distance for space in batch.spaces for distance in space.distances(batch.measure.distance)]
    own = [*distances, *batch.spaces, batch.alignment, *batch.projections.values()]
    library = DSKDSpec.__module__.partition(".")[0]
    found = {called(one): one for one in own if type(one).__module__.partition(".")[0] != library}
    return list(found.values())


@torch.no_grad()
def _logits(states: LMStates) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits and targets of a few scored positions at a time: there may be no memory for all."""
    hidden_states, targets = states.hidden_states[states.scored], states.outcomes[states.scored]
    for rows in torch.arange(len(targets), device=targets.device).split(ROWS):
        yield states.head.logits(hidden_states[rows]), targets[rows]


def _damaged(states: LMStates) -> str | None:
    head = states.head.local  # one rank alone may be here
    if not head.valid_weight.isfinite().all():
        return "head.weight holds NaN or infinity"
    bias = head.bias
    if bias is not None and (bias.isnan() | (bias == math.inf)).any():
        return "head.bias holds NaN or plus infinity"
    if states.embedding is not None and not states.embedding.isfinite().all():
        return "embedding holds NaN or infinity"
    if states.aux_loss is not None and not states.aux_loss.value.isfinite().all():
        return "aux_loss is NaN or infinite: the model's router is damaged"
    return None


@contextmanager
def naming_damaged_parameters(models: Mapping[str, CausalLM | OfflineTeacher]) -> Iterator[None]:
    """Name a model's parameter where what it computed is not finite, because it is not itself.

    Args:
        models: by what they are called in messages.

    Raises:
        NonFiniteError: what was raised within, with the parameter, if there is one.
    """
    try:
        yield
    except NonFiniteError as error:
        for called, model in models.items():
            name = _damaged_parameter(model)
            if name is not None:
                raise NonFiniteError(
                    f"{error} The parameter {name!r} of the {called} holds NaN or infinity itself: an optimizer step "
                    "has broken it, or it was loaded so."
                ) from error
        raise


@torch.no_grad()
def _damaged_parameter(model: CausalLM | OfflineTeacher) -> str | None:
    # What is not run has no parameters of its own, or such as it has not read here.
    plain: Any = model if isinstance(model, OfflineTeacher) else unwrapped(model)
    for name, parameter in plain.named_parameters():
        local = local_part(parameter)
        if local.is_floating_point() and local.numel() and not local.is_meta and not local.isfinite().all():
            return str(name)
    return None
