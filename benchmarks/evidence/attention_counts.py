"""What attention finds of correspondences that are known, what can be had without it, and the most that it can have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dskd_components import Head, LMStates
from dskd_components.models.run_model import groups_of_batch, input_embedding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from benchmarks.evidence.attention_pairs import Pair
    from dskd_components import DSKDLoss
    from dskd_components.models.token_groups import TokenGroups


class Measured:
    """The texts on which alignment is measured, with what is known of them.

    Args:
        pair: student and teacher.
        texts: the texts.
    """

    def __init__(self, pair: Pair, texts: Sequence[str]) -> None:
        self.batch = pair.batch(texts)
        self.exact = groups_of_batch(self.batch)
        self.spans = groups_of_batch(pair.batch(texts, "span"))

    def states(self, models: Mapping[str, Any]) -> dict[str, LMStates]:
        """Return what attention reads, embeddings and tokens; its own values, the hidden states, are left empty.

        Args:
            models: by side.
        """
        found = {}
        for side, model in models.items():
            ids, labels = self.batch[f"{side}_input_ids"], self.batch[f"{side}_labels"]
            embedding = input_embedding(model).detach()
            targets = torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), -100)], 1)
            found[side] = LMStates(
                hidden_states=torch.zeros(*ids.shape, embedding.shape[1]),
                targets=targets,
                head=Head(model.lm_head.weight.detach()),
                input_ids=ids,
                embedding=embedding,
            )
        return found


@torch.no_grad()
def measure(loss_fn: DSKDLoss, models: Mapping[str, Any], measured: Measured) -> dict[str, float]:
    """Return how well attention finds the teacher's position of each student position.

    Args:
        loss_fn: with the attention.
        models: by side.
        measured: the texts.

    Returns:
        Of the student's positions that have an exact pair: ``exact``, the share whose greatest weight is on it;
        ``weight``, the mean weight there; ``later``, that on positions after it. ``span``: of all positions in a group
        of spans, the share whose greatest weight is in the group.
    """
    states = measured.states(models)
    weights = loss_fn.align(states["student"], states["teacher"]).student_to_teacher  # type: ignore[attr-defined]
    rows, places, partners = exact_pairs(measured.exact, states)
    here = weights[rows, places]
    chosen = weights.argmax(-1)
    grouped = states["student"].scored & (measured.spans.student >= 0)
    hits = measured.spans.teacher.gather(1, chosen) == measured.spans.student
    return {
        "exact": float((here.argmax(-1) == partners).float().mean()),
        "weight": float(here.gather(1, partners[:, None]).mean()),
        "later": float((here * (torch.arange(here.shape[1]) > partners[:, None])).sum(1).mean()),
        "span": float(hits[grouped].float().mean()),
    }


def exact_pairs(groups: TokenGroups, states: Mapping[str, LMStates]) -> tuple[Tensor, Tensor, Tensor]:
    """Return row, student position and teacher position of each exact pair, ``[N]`` each.

    Args:
        groups: by position.
        states: by side.
    """
    ours = groups.student.where(states["student"].scored, -1)
    theirs = groups.teacher.where(states["teacher"].scored, -2)
    rows, places, partners = (ours[:, :, None] == theirs[:, None, :]).logical_and(ours[:, :, None] >= 0).nonzero().T
    return rows, places, partners


@torch.no_grad()
def known(models: Mapping[str, Any], measured: Measured) -> dict[str, float]:
    """Return what can be had without learning, and the most that attention can have.

    Args:
        models: by side.
        measured: the texts.

    Returns:
        ``pairs`` and ``tokens``: how many of the student's positions have an exact pair, and how many there are;
        ``uniform``: the share of right ones among the teacher's positions, on average over the pairs; ``diagonal``: the
        share of pairs that lie as far into the text on both sides; ``ceiling``: the share of pairs that attention can
        find, which sees two tokens of a position and not where they stand. The same for spans.
    """
    states = measured.states(models)
    student, teacher = states["student"], states["teacher"]
    rows, places, partners = exact_pairs(measured.exact, states)
    counts = {name: side.scored.sum(1) for name, side in states.items()}
    far = (torch.arange(student.targets.shape[1]) + 0.5) / counts["student"][:, None] * counts["teacher"][:, None]
    diagonal = far.floor().long().clamp(max=teacher.targets.shape[1] - 1)
    assert teacher.input_ids is not None
    key = teacher.input_ids * (int(teacher.input_ids.max()) + 1) + teacher.targets
    alike = (key[rows] == key[rows, partners][:, None]) & teacher.scored[rows]
    groups = measured.spans
    grouped = student.scored & (groups.student >= 0)
    sizes = ((groups.student[:, :, None] == groups.teacher[:, None, :]) & teacher.scored[:, None, :]).sum(2)
    return {
        "pairs": len(rows),
        "tokens": int(student.scored.sum()),
        "uniform": float((1 / counts["teacher"][rows]).mean()),
        "diagonal": float((diagonal[rows, places] == partners).float().mean()),
        "ceiling": float((1 / alike.sum(1)).mean()),
        "uniform span": float((sizes / counts["teacher"][:, None])[grouped].mean()),
        "diagonal span": float((groups.teacher.gather(1, diagonal) == groups.student)[grouped].float().mean()),
    }
