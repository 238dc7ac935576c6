"""The simulation of the DSKD paper, in seconds: points that move, under heads of their own or one head for both.

Hidden states are points of a plane, and a head turns each into a distribution over a vocabulary. The student's points
move until their distributions are the teacher's. With another head than the teacher's, equal distributions are not
equal points: the picture stays another one. With the same head, the student's points come to lie on the teacher's
(arXiv 2406.17328, section 2.2 and figure 2, there by KL; here by each distance of the library).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.nn import functional as F

from dskd_components import get_distance

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

DISTANCES: Final = ("kl", "reverse_kl", "js", "skew_kl", "skew_reverse_kl", "adaptive_kl")

COLOURS: Final = {"teacher": "#4477AA", "student": "#EE6677"}


@dataclass(frozen=True, kw_only=True)
class Toy:
    """The numbers of the simulation.

    Args:
        points: hidden states of either side.
        vocabulary: rows of a head.
        steps: of the student's points.
        lr: how far they go in a step, at first.
        seed: of all that is drawn.
    """

    points: int = 100
    vocabulary: int = 64
    steps: int = 500
    lr: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """Where the student's points have come to.

    Args:
        points: ``[N, 2]``.
        distance: the mean distance of the two sides' distributions, in nats.
        structure: how far the cosines between points are from the teacher's, on average.
        apart: the mean distance of a point to its teacher's, in the teacher's standard deviations.
    """

    points: Tensor
    distance: float
    structure: float
    apart: float


def simulate(toy: Toy) -> dict[str, Any]:
    """Move the student's points by each distance, under either head.

    Args:
        toy: the numbers.

    Returns:
        ``teacher`` and ``student``, the points at the start, ``[N, 2]``; ``outcomes``, by distance and head.
    """
    generator = torch.Generator().manual_seed(toy.seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    teacher, student = drawn(toy.points, 2), 0.5 * drawn(toy.points, 2) + torch.tensor([3.0, 3.0])
    heads = {"teacher": drawn(toy.vocabulary, 2), "student": drawn(toy.vocabulary, 2)}
    outcomes = {
        (name, head): moved(student, teacher, heads[head], heads["teacher"], name, toy)
        for name in DISTANCES
        for head in ("student", "teacher")
    }
    return {"teacher": teacher, "student": student, "outcomes": outcomes}


def moved(student: Tensor, teacher: Tensor, head: Tensor, teacher_head: Tensor, name: str, toy: Toy) -> Outcome:
    """Move the student's points until their distributions are the teacher's.

    Args:
        student: ``[N, 2]``, the points at the start; they stay.
        teacher: ``[N, 2]``.
        head: ``[V, 2]``: what reads the student's points.
        teacher_head: ``[V, 2]``: what reads the teacher's.
        name: of the distance.
        toy: steps and rate.
    """
    points = student.clone().requires_grad_()
    distance, wanted = get_distance(name), (teacher @ teacher_head.T).log_softmax(-1)
    optimizer = torch.optim.Adam([points], lr=toy.lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, toy.steps)
    for _ in range(toy.steps):
        loss = distance((points @ head.T).log_softmax(-1), wanted).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    found = points.detach()
    return Outcome(
        points=found,
        distance=float(distance((found @ head.T).log_softmax(-1), wanted).mean()),
        structure=float((cosines(found) - cosines(teacher)).abs().mean()),
        apart=float((found - teacher).norm(dim=1).mean() / teacher.std()),
    )


def cosines(points: Tensor) -> Tensor:
    """Return ``[N, N]``: the cosine between each two of some points.

    Args:
        points: ``[N, d]``.
    """
    unit = F.normalize(points, dim=-1)
    return unit @ unit.T


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw where the points begin, and where they come to under either head.

    Args:
        found: of `simulate`.
        path: the PNG.
    """
    figure = Figure(figsize=(2.5 * (1 + len(DISTANCES)), 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 1 + len(DISTANCES))
    teacher = found["teacher"]
    for row, (head, title) in enumerate((("student", "heads of their own"), ("teacher", "one head for both"))):
        _points(axes[row][0], teacher, found["student"], "before")
        axes[row][0].set_ylabel(title)
        for column, name in enumerate(DISTANCES, 1):
            outcome = found["outcomes"][name, head]
            label = f"{name}\n{outcome.distance:.2g} nats, cosines off by {outcome.structure:.2f}"
            _points(axes[row][column], teacher, outcome.points, label)
    axes[0][0].legend(fontsize=8, loc="lower left")
    figure.suptitle("Points of a student that move until they predict what the teacher's predict", fontsize=11)
    figure.savefig(path, dpi=90)


def _points(axes: Any, teacher: Tensor, student: Tensor, title: str) -> None:
    for side, points in (("teacher", teacher), ("student", student)):
        axes.scatter(*points.T.tolist(), s=7, color=COLOURS[side], label=side)
    axes.set_title(title, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
