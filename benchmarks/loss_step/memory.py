"""Peak memory of one step in a process of its own, as the operating system sees it.

``python -m benchmarks.loss_step.memory CASE-AS-JSON`` prints the MiB that a step takes above its inputs and gradients.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.loss_step.case import Case

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 2**20


def peak_mib(case: Case, contestant: str) -> float | None:
    """Return the peak in MiB, or None where the step does not fit into the machine."""
    fields = asdict(case) | {"dtype": str(case.dtype).removeprefix("torch."), "contestant": contestant}
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.loss_step.memory", json.dumps(fields)],
        capture_output=True,
        text=True,
        check=False,
    )
    return float(found.stdout) if found.returncode == 0 else None


def step_of(case: Case, contestant: str) -> tuple[Callable[[], object], list[torch.Tensor]]:
    """Return a contestant's step, and the tensors whose gradients do not count."""
    from benchmarks.loss_step import contestants

    student, teacher = case.states()
    leaves = [student.hidden_states, student.head.weight]
    if contestant.startswith("Liger"):
        return contestants.liger(student, teacher, compiled=contestant.endswith("compiled")), leaves
    if contestant == "textbook":
        return contestants.textbook(case, student, teacher), leaves
    loss_fn = case.loss(contestant)
    return contestants.library(case, contestant, student, teacher, loss=loss_fn), [*leaves, *loss_fn.parameters()]


def measure(case: Case, contestant: str) -> float:
    """Run one step and return its peak in MiB above what was there before, less the gradients."""
    # A step of the same kind on a few tokens first, so that what libraries allocate once is there already.
    warm_up, _ = step_of(Case(case.method, 16, (500, 600) if case.method == "dskd-cma" else (500, 500)), contestant)
    warm_up()
    step, leaves = step_of(case, contestant)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts anew
    step()
    gradients = sum(leaf.grad.nbytes for leaf in leaves if leaf.grad is not None)
    return (resident("VmHWM") - before - gradients) / MIB


def resident(what: str) -> int:
    """Return a line of the kernel's account of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [line] = [line for line in lines if line.startswith(what + ":")]
    return int(line.split()[1]) * 1024


def main() -> None:
    """Measure the case that is given as JSON."""
    fields = json.loads(sys.argv[1])
    contestant = fields.pop("contestant")
    fields["dtype"] = getattr(torch, fields["dtype"])
    fields["vocabularies"] = tuple(fields["vocabularies"])
    print(measure(Case(**fields), contestant))


if __name__ == "__main__":
    main()
