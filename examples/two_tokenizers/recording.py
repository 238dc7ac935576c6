"""What is written down of each training run, and the summary over seeds."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Literal

from examples.two_tokenizers.measuring import Score, measure
from examples.two_tokenizers.models import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from examples.two_tokenizers.batches import Batch, Side
    from examples.two_tokenizers.measuring import HeldOut
    from examples.two_tokenizers.settings import Settings

Arm = Literal["teacher", "pretrained", "ce", "dskd-cma", "recommended"]

STUDENT_ARMS: Final[tuple[Arm, ...]] = ("ce", "dskd-cma", "recommended")
"""Students without and with a teacher."""

ARMS: Final[tuple[Arm, ...]] = ("teacher", "pretrained", *STUDENT_ARMS)


@dataclass
class Run:
    """One training run.

    Args:
        arm: ``teacher``, ``pretrained``: the student before, ``ce``: without a teacher, others: with one.
        seed: of its batches, and of all initial weights that are its own.
        parameters: number of the model's weights.
        initial_weights: fingerprint of the model before the first step.
        batches: fingerprint of all its training batches.
        log: by name the value at each step: ``loss``, ``ce``, and the terms and metrics of `DSKDLoss`.
        held_out: the steps at which the model was measured, and what it scored.
        seconds: how long it took, measuring included.
    """

    arm: Arm
    seed: int
    parameters: int
    initial_weights: str
    batches: str
    log: dict[str, list[float]] = field(default_factory=dict)
    held_out: list[tuple[int, Score]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def score(self) -> Score:
        """What the trained model scored."""
        return self.held_out[-1][1]


@dataclass(frozen=True)
class Results:
    """All runs of one experiment.

    Args:
        settings: its numbers.
        teacher: the teacher's run.
        pretrained: the run from which all students start.
        students: the students' runs, all arms of all seeds.
    """

    settings: Settings
    teacher: Run
    pretrained: Run
    students: Sequence[Run]

    def of(self, arm: Arm) -> list[Run]:
        """Return the runs of one arm."""
        return [run for run in (self.teacher, self.pretrained, *self.students) if run.arm == arm]

    def differences(self, arm: Arm) -> list[float]:
        """Return by how much an arm's loss per byte is above that of cross entropy alone, for each seed."""
        pairs = zip(self.of("ce"), self.of(arm), strict=True)
        return [taught.score.nats_per_byte - alone.score.nats_per_byte for alone, taught in pairs]

    def summary(self) -> dict[Arm, dict[str, dict[str, float]]]:
        """Return for each arm and each measure its mean and standard deviation over the seeds."""
        return {arm: _mean_and_sd([run.score for run in self.of(arm)]) for arm in ARMS}

    def as_json(self) -> dict[str, Any]:
        """Return everything, ready for `json.dump`."""
        differences = {arm: self.differences(arm) for arm in STUDENT_ARMS[1:]}
        return {"summary": self.summary(), "minus_cross_entropy": differences, **asdict(self)}


def record_run(
    arm: Arm,
    seed: int,
    model: PreTrainedModel,
    batches: Sequence[Batch],
    steps: Iterable[dict[str, Tensor]],
    held_out: HeldOut,
    evaluations: int,
) -> Run:
    """Drive a training loop to its end, write down what it yields, and measure the model on the way.

    Args:
        arm: what kind of run it is.
        seed: of the run.
        model: the model that the loop trains, not yet touched.
        batches: what the loop trains on.
        steps: the loop.
        held_out: what the model is measured on.
        evaluations: how many times, not counting the untrained model.
    """
    side: Side = "teacher" if arm == "teacher" else "student"
    started = time.perf_counter()
    run = Run(
        arm=arm,
        seed=seed,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        initial_weights=fingerprint(model.parameters()),
        batches=fingerprint(column for batch in batches for column in batch.values()),
        held_out=[(0, measure(model, held_out, side))],
    )
    moments = {round(len(batches) * number / evaluations) for number in range(1, evaluations + 1)}
    for step, values in enumerate(steps, start=1):
        for name, value in values.items():
            run.log.setdefault(name, []).append(float(value))
        if step in moments:
            run.held_out.append((step, measure(model, held_out, side)))
    run.seconds = time.perf_counter() - started
    return run


def _mean_and_sd(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    columns = {each.name: [getattr(score, each.name) for score in scores] for each in fields(Score)}
    return {
        name: {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}
        for name, values in columns.items()
    }
