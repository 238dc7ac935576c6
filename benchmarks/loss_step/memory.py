"""Peak memory of one step, in processes of its own: what tensors take, and what the process takes.

The first is what torch's allocator was asked for at once, as ``torch.cuda.max_memory_allocated`` counts it on a GPU.
The second is what the operating system sees; it has in it what the C library keeps of freed memory, and varies from run
to run. ``python -m benchmarks.loss_step.memory CASE-AS-JSON`` prints the MiB that a step takes above its inputs and
gradients.
"""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.loss_step.case import Case

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 2**20


class Peak(NamedTuple):
    """Peaks in MiB; None where the step does not fit into the machine.

    Args:
        allocated: of all tensors together.
        resident: of the process.
    """

    allocated: float | None
    resident: float | None


def peak_mib(case: Case, contestant: str) -> Peak:
    """Return the peaks of a contestant's step."""
    return Peak(*(_in_a_process(case, contestant, measure) for measure in Peak._fields))


def _in_a_process(case: Case, contestant: str, measure: str) -> float | None:
    fields = asdict(case) | {"dtype": str(case.dtype).removeprefix("torch.")}
    fields |= {"contestant": contestant, "measure": measure}
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


def warm_up(case: Case, contestant: str) -> None:
    """Make a step of the same kind on a few tokens, so that what libraries allocate once is there already."""
    step, _ = step_of(Case(case.method, 16, (500, 600) if case.method == "dskd-cma" else (500, 500)), contestant)
    step()


def gradient_bytes(leaves: list[torch.Tensor]) -> int:
    """Return the memory of the leaves' gradients."""
    return sum(leaf.grad.nbytes for leaf in leaves if leaf.grad is not None)


def allocated(case: Case, contestant: str) -> float:
    """Run one step and return the peak of its tensors in MiB, less the gradients."""
    return allocated_by(*step_of(case, contestant))


def allocated_by(step: Callable[[], object], leaves: list[torch.Tensor]) -> float:
    """Run a step and return the peak of its tensors in MiB, less the gradients of the leaves."""
    # Without large pages the library's scratch comes from torch's allocator, too, and is counted.
    if hasattr(mmap, "MADV_HUGEPAGE"):
        del mmap.MADV_HUGEPAGE
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return (max(accumulate(changes)) - gradient_bytes(leaves)) / MIB


def resident(case: Case, contestant: str) -> float:
    """Run one step and return the process's peak in MiB above what was there before, less the gradients."""
    step, leaves = step_of(case, contestant)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts anew
    step()
    return (status("VmHWM") - before - gradient_bytes(leaves)) / MIB


def status(what: str) -> int:
    """Return a line of the kernel's account of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [line] = [line for line in lines if line.startswith(what + ":")]
    return int(line.split()[1]) * 1024


def main() -> None:
    """Measure the case that is given as JSON."""
    fields = json.loads(sys.argv[1])
    contestant, measure = fields.pop("contestant"), fields.pop("measure")
    fields["dtype"] = getattr(torch, fields["dtype"])
    fields["vocabularies"] = tuple(fields["vocabularies"])
    case = Case(**fields)
    warm_up(case, contestant)
    print({"allocated": allocated, "resident": resident}[measure](case, contestant))


if __name__ == "__main__":
    main()
