"""What a further teacher costs in the loss; ``python -m benchmarks.several_teachers``.

The models are left out: their hidden states are given. Rounds of all contestants are interleaved, and processor time is
counted, so that a busy machine weighs on all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.table import Table

from dskd_components import DSKDLoss, Head, LMStates, MultiTeacherLoss, MultiTeacherSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

STUDENT, TEACHERS = 768, {"a": 2048, "b": 2048}
BASELINE = "one teacher"


def states(tokens: int, width: int, vocabulary: int, targets: torch.Tensor) -> LMStates:
    """Random states of one model."""
    head = Head((torch.randn(vocabulary, width) / width**0.5).requires_grad_(width == STUDENT))
    hidden = torch.randn(1, tokens, width).requires_grad_(width == STUDENT)
    return LMStates(hidden_states=hidden, targets=targets, head=head)


def contestants(tokens: int, vocabulary: int) -> Mapping[str, Callable[[], object]]:
    """Return one forward and backward pass of each way."""
    targets = torch.randint(vocabulary, (1, tokens))
    student = states(tokens, STUDENT, vocabulary, targets)
    teachers = {name: states(tokens, width, vocabulary, targets) for name, width in TEACHERS.items()}

    def pair(spec: MultiTeacherSpec, name: str) -> DSKDLoss:
        return DSKDLoss(spec.pair(name), student_hidden_size=STUDENT, teacher_hidden_size=TEACHERS[name])

    def several(*names: str) -> Callable[[], object]:
        spec = MultiTeacherSpec.model_validate({"teachers": {name: {} for name in names}})
        loss_fn = MultiTeacherLoss(spec, {name: pair(spec, name) for name in names})
        given = {name: teachers[name] for name in names}
        return lambda: loss_fn(student, given).loss.backward()

    apart = [several(name) for name in TEACHERS]
    return {
        BASELINE: several("a"),
        "two teachers": several("a", "b"),
        "two losses of one teacher": lambda: [run() for run in apart],
    }


def processor_seconds(work: Callable[[], object]) -> float:
    """Processor time of a call, in seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measure, print a table, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    torch.manual_seed(0)
    ways = contestants(options.tokens, options.vocabulary)
    for work in ways.values():
        work()
    rounds = [{name: processor_seconds(work) for name, work in ways.items()} for _ in range(options.rounds)]
    table = Table("loss and gradients", "processor seconds", "beside one teacher")
    results = {}
    for name in ways:
        median = statistics.median(found[name] for found in rounds)
        ratios = sorted(found[name] / found[BASELINE] for found in rounds)
        results[name] = {"seconds": median, "ratio": statistics.median(ratios), "from": ratios[0], "to": ratios[-1]}
        table.add_row(name, f"{median:.2f}", f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    Console().print(table)
    if options.json:
        shape = {"tokens": options.tokens, "vocabulary": options.vocabulary, "student": STUDENT, "teachers": TEACHERS}
        versions = {name: version(name) for name in ("dskd-components", "torch")}
        machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
        found = {"machine": machine, "versions": versions, "shape": shape, "results": results}
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
