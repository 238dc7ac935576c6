"""The method as loops over samples, positions and tokens, for comparison. Nothing here is shared with the library."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dskd_components import DSKDLoss, DSKDSpec
    from tests.helpers.strategies import Batch

Row = list[Tensor]


def log_softmax(row: Tensor) -> Tensor:
    return row - row.exp().sum().log()


def kl(p: Tensor, q: Tensor) -> Tensor:
    return sum((p[v].exp() * (p[v] - q[v]) for v in range(len(p))), torch.zeros((), dtype=p.dtype))


def divergence(name: str, student: Tensor, teacher: Tensor) -> Tensor:
    mixed = {"js": 0.5, "skew_kl": 0.1, "skew_reverse_kl": 0.9}
    if name == "kl":
        return kl(teacher, student)
    if name == "reverse_kl":
        return kl(student, teacher)
    mixture = (mixed[name] * teacher.exp() + (1 - mixed[name]) * student.exp()).log()
    if name == "skew_kl":
        return kl(teacher, mixture)
    if name == "skew_reverse_kl":
        return kl(student, mixture)
    return 0.5 * kl(teacher, mixture) + 0.5 * kl(student, mixture)


def attention(loss_fn: DSKDLoss, batch: Batch, sample: int, spec: DSKDSpec) -> dict[str, Any]:
    """Scores, values and scored positions of one sample under cross-model attention."""
    student, teacher = batch.student, batch.teacher
    assert student.input_ids is not None
    assert teacher.input_ids is not None
    assert student.embedding is not None
    assert teacher.embedding is not None
    ours = [i for i in range(student.targets.shape[1]) if student.targets[sample, i] != -100]
    theirs = [j for j in range(teacher.targets.shape[1]) if teacher.targets[sample, j] != -100]
    everyone = range(len(teacher.targets)) if spec.aligner.std == "batch" else [sample]  # type: ignore[attr-defined]
    places = [(b, j) for b in everyone for j in range(teacher.targets.shape[1]) if teacher.targets[b, j] != -100]

    def pair(b: int, j: int) -> Tensor:
        read, predicted = teacher.input_ids[b, j], teacher.targets[b, j]  # type: ignore[index]
        return torch.cat([teacher.embedding[read], teacher.embedding[predicted]])  # type: ignore[index]

    key_std = torch.cat([pair(b, j) for b, j in places]).std()
    embedding_std = torch.cat([teacher.embedding[teacher.targets[b, j]] for b, j in places]).std()
    hidden_std = torch.cat([teacher.hidden_states[b, j] for b, j in places]).std()
    query = loss_fn.aligner.query
    scores, values = {}, {}
    for j in theirs:
        values[j] = (
            teacher.hidden_states[sample, j] / hidden_std
            + teacher.embedding[teacher.targets[sample, j]] / embedding_std
        )
        for i in ours:
            read, predicted = student.input_ids[sample, i], student.targets[sample, i]
            asked = query.weight @ torch.cat([student.embedding[read], student.embedding[predicted]]) + query.bias
            key = pair(sample, j) / key_std
            scores[i, j] = asked @ key / math.sqrt(len(key))
    return {"ours": ours, "theirs": theirs, "scores": scores, "values": values}


def dskd_cma(loss_fn: DSKDLoss, batch: Batch, spec: DSKDSpec) -> dict[str, Tensor]:
    """Sums of all terms under cross-model attention, position by position."""
    student, teacher = batch.student, batch.teacher
    t2s, s2t = loss_fn.projectors["t2s"], loss_fn.projectors["s2t"]
    terms = {name: torch.zeros((), dtype=student.hidden_states.dtype) for name in ("ce", "t2s_ce", "t2s_kd", "s2t_kd")}
    temperature = spec.temperature
    teacher_temperature = temperature * spec.teacher_temperature
    for sample in range(len(student.targets)):
        found = attention(loss_fn, batch, sample, spec)
        ours, theirs, scores = found["ours"], found["theirs"], found["scores"]
        for i in ours:
            target = student.targets[sample, i]
            logits = student.head.weight @ student.hidden_states[sample, i]
            terms["ce"] = terms["ce"] - log_softmax(logits)[target]
            weights = torch.stack([scores[i, j] for j in theirs]).softmax(0)
            brought = sum(
                w * (t2s.weight @ found["values"][j] + t2s.bias) for w, j in zip(weights, theirs, strict=True)
            )
            projected = student.head.weight.detach() @ brought
            terms["t2s_ce"] = terms["t2s_ce"] - log_softmax(projected)[target]
            if projected.argmax() == target:
                terms["t2s_kd"] = terms["t2s_kd"] + divergence(
                    spec.distance.name,
                    log_softmax(logits / temperature),
                    log_softmax(projected.detach() / teacher_temperature),
                )
        for j in theirs:
            weights = torch.stack([scores[i, j] for i in ours]).softmax(0)
            brought = sum(
                w * (s2t.weight @ student.hidden_states[sample, i] + s2t.bias)
                for w, i in zip(weights, ours, strict=True)
            )
            projected = teacher.head.weight @ brought
            logits = teacher.head.weight @ teacher.hidden_states[sample, j]
            terms["s2t_kd"] = terms["s2t_kd"] + divergence(
                "kl", log_softmax(projected / temperature), log_softmax(logits / teacher_temperature)
            )
    return terms


def naive_span_term(batch: Batch, temperature: float) -> tuple[Tensor, int]:
    """The sum over groups of squared differences of log-likelihoods, and the number of groups."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for sample in range(len(batch.student.targets)):
        sums: list[dict[int, Tensor]] = []
        for states, groups in ((batch.student, batch.groups.student), (batch.teacher, batch.groups.teacher)):
            found: dict[int, Tensor] = {}
            for position, target in enumerate(states.targets[sample].tolist()):
                group = int(groups[sample, position])
                if group >= 0 and target >= 0:
                    logits = states.head.weight @ states.hidden_states[sample, position]
                    found[group] = found.get(group, 0.0) + log_softmax(logits / temperature)[target]
            sums.append(found)
        for group in sums[0].keys() & sums[1].keys():
            total, count = total + (sums[0][group] - sums[1][group]) ** 2, count + 1
    return total, count
