"""What a further teacher costs in the loss; ``python -m benchmarks.several_teachers``.

The models are left out: their hidden states are given. Rounds of all contestants are interleaved, and processor time is
counted, so that a busy machine weighs on all alike. Memory is what tensors take at once, above inputs and gradients.
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

from benchmarks.loss_step.memory import allocated_by
from dskd_components import DSKDLoss, Head, LMStates, MultiTeacherLoss, MultiTeacherSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

STUDENT, TEACHERS = 768, {"a": 2048, "b": 2048, "c": 2048}
BASELINE = "one teacher"
SPACES = {"both spaces": ["student", "teacher"], "the teacher's space": ["teacher"]}


def states(tokens: int, width: int, vocabulary: int, targets: torch.Tensor) -> LMStates:
    """Random states of one model."""
    head = Head((torch.randn(vocabulary, width) / width**0.5).requires_grad_(width == STUDENT))
    hidden = torch.randn(1, tokens, width).requires_grad_(width == STUDENT)
    return LMStates(hidden_states=hidden, targets=targets, head=head)


def contestants(tokens: int, vocabulary: int, spaces: list[str]) -> Mapping[str, Callable[[], object]]:
    """Return one forward and backward pass of each way."""
    student, teachers = inputs(tokens, vocabulary)

    def several(*names: str) -> Callable[[], object]:
        loss_fn = loss_of(names, spaces)
        given = {name: teachers[name] for name in names}
        return lambda: loss_fn(student, given).loss.backward()

    apart = [several(name) for name in ("a", "b")]
    return {
        BASELINE: several("a"),
        "two teachers": several("a", "b"),
        "two losses of one teacher": lambda: [run() for run in apart],
    }


def inputs(tokens: int, vocabulary: int) -> tuple[LMStates, dict[str, LMStates]]:
    """Return states of the student and of each teacher."""
    targets = torch.randint(vocabulary, (1, tokens))
    student = states(tokens, STUDENT, vocabulary, targets)
    return student, {name: states(tokens, width, vocabulary, targets) for name, width in TEACHERS.items()}


def loss_of(names: Iterable[str], spaces: list[str]) -> MultiTeacherLoss:
    """Return the loss for some of the teachers."""
    spec = MultiTeacherSpec.model_validate({"teachers": {name: {"spaces": spaces} for name in names}})
    pairs = {
        name: DSKDLoss(spec.pair(name), student_hidden_size=STUDENT, teacher_hidden_size=TEACHERS[name])
        for name in spec.teachers
    }
    return MultiTeacherLoss(spec, pairs)


def peaks(options: argparse.Namespace, spaces: list[str]) -> list[float]:
    """Return the memory that one teacher takes, two, and so on, in MiB."""
    found = []
    for count in range(1, len(TEACHERS) + 1):
        student, teachers = inputs(options.tokens, options.vocabulary)
        given = dict(list(teachers.items())[:count])
        loss_fn = loss_of(given, spaces)
        leaves = [student.hidden_states, student.head.weight, *loss_fn.parameters()]
        found.append(allocated_by(lambda: loss_fn(student, given).loss.backward(), leaves))  # noqa: B023
    return found


def processor_seconds(work: Callable[[], object]) -> float:
    """Processor time of a call, in seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measured(options: argparse.Namespace, spaces: list[str]) -> dict[str, dict[str, float]]:
    """Return what each way takes, and its ratio to one teacher over the rounds."""
    torch.manual_seed(0)
    ways = contestants(options.tokens, options.vocabulary, spaces)
    for work in ways.values():
        work()
    rounds = [{name: processor_seconds(work) for name, work in ways.items()} for _ in range(options.rounds)]
    results = {}
    for name in ways:
        ratios = sorted(found[name] / found[BASELINE] for found in rounds)
        median = statistics.median(found[name] for found in rounds)
        results[name] = {"seconds": median, "ratio": statistics.median(ratios), "from": ratios[0], "to": ratios[-1]}
    return results


def main() -> None:
    """Measure, print a table, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    table = Table("loss and gradients", "processor seconds", "beside one teacher")
    results = {where: measured(options, spaces) for where, spaces in SPACES.items()}
    for where, ways in results.items():
        for name, one in ways.items():
            ratio = f"{one['ratio']:.2f} ({one['from']:.2f} to {one['to']:.2f})"
            table.add_row(f"{where}: {name}", f"{one['seconds']:.2f}", ratio)
    memory = {where: peaks(options, spaces) for where, spaces in SPACES.items()}
    Console().print(table)
    for where, found in memory.items():
        print(f"{where}: MiB with 1 to {len(found)} teachers: {', '.join(f'{peak:.0f}' for peak in found)}")
    if options.json:
        shape = {"tokens": options.tokens, "vocabulary": options.vocabulary, "student": STUDENT, "teachers": TEACHERS}
        versions = {name: version(name) for name in ("dskd-components", "torch")}
        machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
        report = {"machine": machine, "versions": versions, "shape": shape, "results": results, "mib": memory}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
