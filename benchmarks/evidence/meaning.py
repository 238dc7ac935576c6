"""Whether projections preserve meaning, on texts that neither students nor projectors have learned from.

The teacher's states at positions where both models predict the same piece of text are projected into the student's
space, and looked at from several sides: do they still predict what the teacher predicts, do they find back, do they
have the same neighbours. The student's own states are compared with the teacher's, as the paper does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn import functional as F

from benchmarks.evidence.arms import LOOKED_AT, arms_of
from benchmarks.evidence.journal import dev_scores, journals
from benchmarks.evidence.measuring import on_device
from benchmarks.evidence.queue import best_rate, rates_tried
from dskd_components import DualTokenizerCollator
from dskd_components.models.run_model import groups_of_batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from benchmarks.evidence.arms import Arm
    from benchmarks.evidence.bench import Bench
    from benchmarks.evidence.plan import Run, SettingName
    from dskd_components import DSKDLoss, Head

NEIGHBOURS: Final = 10
"""Of which it is counted how many stay."""

MOST: Final = 2000
"""Positions that are compared with one another."""

TEXTS_AT_ONCE: Final = 16


@dataclass(frozen=True)
class Pairs:
    """States of both models at positions that predict the same piece of text.

    Args:
        student: ``[N, ds]``.
        teacher: ``[N, dt]``.
        aligned: ``[N, dt]``: what the arm's aligner brings to the student's positions, the teacher's states where it is
            told which belong together.
        found: ``[N]``, bool: whether the aligner looks at the corresponding position.
        student_targets: ``[N]``: what the student is to predict.
        teacher_targets: ``[N]``: the same in the teacher's vocabulary.
        student_head: reads the student's space.
        teacher_head: reads the teacher's.
        project: by direction, what brings states there.
    """

    student: Tensor
    teacher: Tensor
    aligned: Tensor
    found: Tensor
    student_targets: Tensor
    teacher_targets: Tensor
    student_head: Head
    teacher_head: Head
    project: dict[str, Callable[[Tensor], Tensor]]


def meaning(bench: Bench) -> dict[str, Any]:
    """Look at the projections of each arm: before training, and after.

    Args:
        bench: the folder, with students that were kept.

    Returns:
        By setting and arm, the numbers of `measured`; under ``start`` those of the student before training, with
        projectors that start from the heads, and under ``random`` with such as are random.
    """
    found: dict[str, Any] = {}
    for setting, names in LOOKED_AT.items():
        arms = arms_of(setting)
        aligned = {"one": ("dskd-heads", "dskd"), "two": ("exact-heads", "exact-linear")}[setting]
        rows = {
            kind: measured(pairs_of(bench, setting, arms[arm], None))
            for kind, arm in zip(("start", "random"), aligned, strict=True)
        }
        for name in names:
            run = kept_run(bench, setting, name)
            if run is not None:
                rows[name] = {"seed": run.seed, **measured(pairs_of(bench, setting, arms[name], run))}
        found[setting] = rows
    return found


def kept_run(bench: Bench, setting: SettingName, arm: str) -> Run | None:
    """Return a run of an arm at its best rate whose student was kept.

    Args:
        bench: the folder.
        setting: the setting.
        arm: the arm.
    """
    finished = dev_scores(journals(bench.folder / "runs"))
    if not rates_tried(finished, setting, arm, bench.plan):
        return None
    rate = best_rate(finished, setting, arm, bench.plan)
    runs = [run for run in sorted(finished) if (run.setting, run.arm, run.lr) == (setting, arm, rate)]
    return next((run for run in runs if (bench.folder / "kept" / f"{run.name}.pt").is_file()), None)


@torch.no_grad()
def pairs_of(bench: Bench, setting: SettingName, arm: Arm, run: Run | None) -> Pairs:
    """Return the states of a student and the teacher on the dev texts, at exactly corresponding positions.

    Args:
        bench: the folder.
        setting: the setting.
        arm: the arm; its projections are taken.
        run: the run whose student was kept; None: the student and the projectors as they begin.
    """
    student = bench.student(setting)
    torch.manual_seed(bench.plan.seeds[0])
    loss_fn = bench.loss(arm, student, setting)
    if run is not None:
        kept = torch.load(bench.folder / "kept" / f"{run.name}.pt", map_location=bench.device, weights_only=True)
        student.load_state_dict(kept["student"])
        if kept["loss"] is not None:
            loss_fn.load_state_dict(kept["loss"])
    collate = DualTokenizerCollator(
        bench.tokenizer(setting), bench.teacher_tokenizer, aligner="exact_match", append_eos=False
    )
    texts = bench.texts["dev"]
    found = [
        _pairs_of_batch(
            bench,
            loss_fn,
            student,
            on_device(collate([text.sample for text in texts[first : first + TEXTS_AT_ONCE]]), bench.device),
        )
        for first in range(0, len(texts), TEXTS_AT_ONCE)
    ]
    columns = [torch.cat(column) for column in zip(*found, strict=True)]
    heads = _heads(bench, loss_fn, student, on_device(collate([texts[0].sample]), bench.device))
    return Pairs(*columns, *heads)


def _pairs_of_batch(bench: Bench, loss_fn: DSKDLoss, student: Any, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    ours, theirs = loss_fn.states(student, batch, "student"), loss_fn.states(bench.store, batch, "teacher")
    groups: Any = groups_of_batch(batch)
    aligned = loss_fn.align(ours, theirs, alignment=None if loss_fn.spec.aligner.same_tokenizer else groups)
    rows, places, partners = [], [], []
    scored, also_scored = ours.scored.cpu(), theirs.scored.cpu()
    for row, (own, other) in enumerate(zip(groups.student.tolist(), groups.teacher.tolist(), strict=True)):
        place_of = {group: place for place, group in enumerate(other) if group >= 0}
        for place, group in enumerate(own):
            if group in place_of and scored[row, place] and also_scored[row, place_of[group]]:
                rows.append(row)
                places.append(place)
                partners.append(place_of[group])
    return (
        ours.hidden_states[rows, places].float(),
        theirs.hidden_states[rows, partners].float(),
        aligned.to_student(aligned.teacher_values)[rows, places].float(),
        aligned.teacher_index()[rows, places] == torch.tensor(partners, device=bench.device),
        ours.targets[rows, places],
        theirs.targets[rows, partners],
    )


def _heads(
    bench: Bench, loss_fn: DSKDLoss, student: Any, batch: dict[str, Tensor]
) -> tuple[Head, Head, dict[str, Callable[[Tensor], Tensor]]]:
    ours, theirs = loss_fn.states(student, batch, "student"), loss_fn.states(bench.store, batch, "teacher")
    groups = None if loss_fn.spec.aligner.same_tokenizer else groups_of_batch(batch)
    aligned = loss_fn.aligned_batch(ours, theirs, groups, loss_fn.spec.loss_weights(0))

    def through(direction: Any) -> Callable[[Tensor], Tensor]:
        return lambda states: aligned.projections[direction](states, aligned.heads[direction])

    directions = loss_fn.spec.directions if loss_fn.spec.kd_rate else ()
    return ours.head, theirs.head, {direction: through(direction) for direction in directions}


@torch.no_grad()
def measured(pairs: Pairs) -> dict[str, float]:
    """Return the numbers of one student and its projections.

    Args:
        pairs: of `pairs_of`.

    Returns:
        ``positions``; for the teacher, the student and, if there is one, the projected teacher, the loss in nats a
        token and the share of tokens that are right; ``aligned``, the share of positions that the aligner finds;
        ``neighbours``, the share of a state's nearest by cosine that stay; ``round trip``, the share of states
        that are the nearest to what they become there and back; ``cosine`` and ``inner product``, how far the
        student's similarities of positions are from the teacher's; ``cka``.
    """
    teacher, student = pairs.teacher[:MOST], pairs.student[:MOST]
    found: dict[str, float] = {"positions": len(pairs.student)}
    found |= _predictions("teacher", pairs.teacher_head, pairs.teacher, pairs.teacher_targets)
    found |= _predictions("student", pairs.student_head, pairs.student, pairs.student_targets)
    if "t2s" in pairs.project:
        projected = pairs.project["t2s"](pairs.aligned)
        found["aligned"] = float(pairs.found.float().mean())
        found |= _predictions("projected", pairs.student_head, projected, pairs.student_targets)
        found["neighbours"] = neighbours_kept(teacher, projected[:MOST])
        if "s2t" in pairs.project:
            back = pairs.project["s2t"](projected[:MOST])
            hits = (F.normalize(back, dim=-1) @ F.normalize(teacher, dim=-1).T).argmax(-1)
            hits = hits == torch.arange(len(back), device=back.device)
            found["round trip"] = float(hits.float().mean())
    found["cosine"] = float((_cosines(student) - _cosines(teacher)).abs().mean())
    found["inner product"] = float((_products(student) - _products(teacher)).abs().mean())
    found["cka"] = cka(student, teacher)
    return found


def _predictions(name: str, head: Head, states: Tensor, targets: Tensor) -> dict[str, float]:
    losses, hits = [], []
    for some, wanted in zip(states.split(512), targets.split(512), strict=True):
        logits = head.logits(some)
        losses.append(F.cross_entropy(logits, wanted, reduction="none"))
        hits.append(logits.argmax(-1) == wanted)
    return {f"{name} loss": float(torch.cat(losses).mean()), f"{name} right": float(torch.cat(hits).float().mean())}


def neighbours_kept(before: Tensor, after: Tensor) -> float:
    """Return the share of each row's nearest rows, by cosine, that are among its nearest afterwards.

    Args:
        before: ``[N, d]``.
        after: ``[N, e]``.
    """
    count = min(NEIGHBOURS, len(before) - 1)
    nearest = []
    for states in (before, after):
        similar = _cosines(states).fill_diagonal_(-2.0)
        chosen = similar.topk(count, dim=-1).indices
        nearest.append(torch.zeros_like(similar, dtype=torch.bool).scatter_(1, chosen, value=True))
    return float((nearest[0] & nearest[1]).sum(1).float().mean() / count)


def cka(ours: Tensor, theirs: Tensor) -> float:
    """Return the linear centred kernel alignment of two sets of states (Kornblith et al. 2019): 1 for rotations.

    Args:
        ours: ``[N, d]``.
        theirs: ``[N, e]``.
    """
    ours, theirs = ours.double() - ours.double().mean(0), theirs.double() - theirs.double().mean(0)
    return float((ours.T @ theirs).norm() ** 2 / ((ours.T @ ours).norm() * (theirs.T @ theirs).norm()))


def _cosines(states: Tensor) -> Tensor:
    unit = F.normalize(states, dim=-1)
    return unit @ unit.T


def _products(states: Tensor) -> Tensor:
    """Return the inner products of each two states, the rows normalised to add up to 1 in size, as in the paper."""
    products = states @ states.T
    return products / products.abs().sum(-1, keepdim=True)
