"""DSKD as the papers write it down, in plain PyTorch: what a research script does, and what a user would write."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components import DSKDLoss, LMStates


def textbook_step(method: str, loss_fn: DSKDLoss, student: LMStates, teacher: LMStates) -> Tensor:
    """Compute loss and gradients for all positions, prompts and padding included, and mask the values.

    Args:
        method: ``dskd``, ``dskd-cma`` or ``js``.
        loss_fn: where the projectors and the query projection come from.
        student: the student's states.
        teacher: the teacher's states.
    """
    loss = {"dskd": _dskd, "dskd-cma": _dskd_cma, "js": _js}[method](loss_fn, student, teacher)
    loss.backward()
    return loss.detach()


def _dskd(loss_fn: DSKDLoss, student: LMStates, teacher: LMStates) -> Tensor:
    projectors = loss_fn.projectors
    hidden, teacher_hidden = student.hidden_states.float(), teacher.hidden_states.float()
    to_student = F.linear(teacher_hidden, projectors["t2s"].weight, projectors["t2s"].bias)
    to_teacher = F.linear(hidden, projectors["s2t"].weight, projectors["s2t"].bias)
    return _two_spaces(student, teacher, to_student, to_teacher, only_correct=False)


def _dskd_cma(loss_fn: DSKDLoss, student: LMStates, teacher: LMStates) -> Tensor:
    projectors, query = loss_fn.projectors, loss_fn.aligner.query
    student_read, student_next = _embed(student, student.input_ids), _embed(student, student.targets)
    teacher_read, teacher_next = _embed(teacher, teacher.input_ids), _embed(teacher, teacher.targets)
    scored = teacher.scored
    keys = torch.cat([teacher_read, teacher_next], -1)
    keys = keys / keys[scored].std()
    hidden = teacher.hidden_states.float()
    values = hidden / hidden[scored].std() + teacher_next / teacher_next[scored].std()
    scores = query(torch.cat([student_read, student_next], -1)) @ keys.transpose(1, 2) / math.sqrt(keys.shape[-1])
    scores = scores.masked_fill(~(student.scored[:, :, None] & scored[:, None, :]), -1e9)
    projected = F.linear(values, projectors["t2s"].weight, projectors["t2s"].bias)
    to_student = scores.softmax(-1) @ projected
    own = F.linear(student.hidden_states.float(), projectors["s2t"].weight, projectors["s2t"].bias)
    to_teacher = scores.transpose(1, 2).softmax(-1) @ own
    return _two_spaces(student, teacher, to_student, to_teacher, only_correct=True)


def _two_spaces(
    student: LMStates, teacher: LMStates, to_student: Tensor, to_teacher: Tensor, *, only_correct: bool
) -> Tensor:
    head, teacher_head = student.head.weight.float(), teacher.head.weight.float()
    logits = student.hidden_states.float() @ head.T
    projected_logits = to_student @ head.detach().T
    ce = _cross_entropy(logits, student.targets)
    t2s_ce = _cross_entropy(projected_logits, student.targets)
    kept = student.scored
    if only_correct:
        kept = kept & (projected_logits.argmax(-1) == student.targets)
    t2s_kd = _kl(logits, projected_logits.detach())[kept].sum()
    with torch.no_grad():
        teacher_logits = teacher.hidden_states.float() @ teacher_head.T
    s2t_kd = _kl(to_teacher @ teacher_head.T, teacher_logits)[teacher.scored].sum()
    return 0.5 * (ce + t2s_ce + t2s_kd + s2t_kd) / student.scored.sum()


def _js(_: DSKDLoss, student: LMStates, teacher: LMStates) -> Tensor:
    logits = student.hidden_states.float() @ student.head.weight.float().T
    with torch.no_grad():
        teacher_logits = teacher.hidden_states.float() @ teacher.head.weight.float().T
    q, p = logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    mixture = torch.logaddexp(q, p) - math.log(2)
    values = 0.5 * ((p.exp() * (p - mixture)).sum(-1) + (q.exp() * (q - mixture)).sum(-1))
    ce = _cross_entropy(logits, student.targets)
    return 0.5 * (ce + values[student.scored].sum()) / student.scored.sum()


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")


def _kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    log_p, log_q = teacher_logits.log_softmax(-1), student_logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _embed(states: LMStates, ids: Tensor | None) -> Tensor:
    assert states.embedding is not None
    assert ids is not None
    return states.embedding.float()[ids.clamp_min(0)]
