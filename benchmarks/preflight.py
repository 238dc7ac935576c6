"""``python -m benchmarks.preflight FOLDER FOLDER``: what preflight states of a step, beside what real steps take.

Both models take both parts, student and teacher, in bfloat16 and in float32, with AdamW going over one parameter at a
time and over all at once. Each line comes from processes of its own:

- *stated*: `estimate` for a batch, from measured steps of a quarter and of half of it, as ``dskd doctor`` does;
- *allocated*: what torch's allocator was asked for at once in a step of training with that batch, beside the models;
- *resident*: what the process takes at the most in such a step, above what it took before the models were loaded;
- *seconds*: of the processor, so that other processes on the machine count little; medians of steps after the first.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import subprocess
import sys
import time
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.loss_step.memory import status
from benchmarks.loss_step.report import machine
from dskd_components import DSKDLoss, DSKDSpec, DualTokenizerCollator
from dskd_components.models.run_model import groups_of_batch
from dskd_components.preflight.estimate import estimate, step_memory
from dskd_components.preflight.measuring import measure_step

MIB = 2**20
SENTENCES = (
    "The river rises in the mountains, crosses three countries, and reaches the sea after two thousand kilometres. ",
    "In spring it carries meltwater, in autumn hardly more than a stream that children wade through. ",
    "Whoever wants to know how long it is has to decide where it begins, and people have argued about that for long. ",
    "A map from 1874 shows a second source in the east, which nobody has found again since then. ",
)


def samples(count: int) -> list[dict[str, str]]:
    """Prompts with responses of about a hundred tokens."""
    return [
        {"prompt": f"Question {number}: which river is the longest?\n", "response": "".join(SENTENCES)}
        for number in range(count)
    ]


class Training:
    """Models, loss and batches of one case.

    Args:
        case: folders of student and teacher, ``dtype`` of the student, rows of the batch.
    """

    def __init__(self, case: dict[str, Any]) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizers = [AutoTokenizer.from_pretrained(case[side]) for side in ("student", "teacher")]
        spec = DSKDSpec(aligner="span")
        collate = DualTokenizerCollator(*tokenizers, aligner=spec.aligner)
        quarter, half, whole = (collate(samples(case["rows"] // part)) for part in (4, 2, 1))
        self.measured, self.batch = (quarter, half), whole
        trim()
        self.before = status("VmRSS")
        dtype = getattr(torch, case["dtype"])
        self.student: Any = AutoModelForCausalLM.from_pretrained(case["student"], dtype=dtype)
        self.teacher: Any = AutoModelForCausalLM.from_pretrained(case["teacher"], dtype=torch.bfloat16)
        self.student.train()
        self.teacher.eval().requires_grad_(False)
        self.loss_fn = DSKDLoss.from_models(spec, self.student, self.teacher, *tokenizers)

    def optimizer(self, *, foreach: bool) -> torch.optim.Optimizer:
        """AdamW of all that is trained."""
        groups = [{"params": list(self.student.parameters())}, *self.loss_fn.param_groups(lr=1e-4)]
        return torch.optim.AdamW(groups, lr=1e-5, foreach=foreach)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """One step of training, as in the plain loop of the documentation."""
        self.loss_fn.run(self.student, self.teacher, self.batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def trim() -> None:
    """Give freed memory back, so that it is not counted."""
    ctypes.CDLL(None).malloc_trim(0)


def resident(case: dict[str, Any]) -> dict[str, Any]:
    """The process's peak in the second step of training."""
    training = Training(case)
    optimizer = training.optimizer(foreach=case["foreach"])
    training.step(optimizer)
    trim()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts anew
    training.step(optimizer)
    return {"resident_mib": (status("VmHWM") - training.before) / MIB}


def allocated(case: dict[str, Any]) -> dict[str, Any]:
    """What is stated, the allocator's peak with both ways of AdamW, and the time of steps."""
    del mmap.MADV_HUGEPAGE  # then scratch memory comes from the allocator, too, and is counted
    training = Training(case)
    models = training.loss_fn, training.student, training.teacher
    clock = time.process_time
    smaller, found = (measure_step(*models, batch, groups_of_batch(batch), clock=clock) for batch in training.measured)
    tokens = training.batch["student_input_ids"].numel()
    scored = int((training.batch["student_labels"] >= 0).sum())
    costs = estimate(*models, found, tokens, scored=scored, smaller=smaller)
    memory = step_memory(*models, found, tokens, scored=scored)
    result: dict[str, Any] = {"tokens": tokens, "scored": scored, "measured_tokens": found.tokens, "memory_mib": {}}
    optimizer = training.optimizer(foreach=False)
    training.step(optimizer)
    for foreach in (False, True):
        for group in optimizer.param_groups:
            group["foreach"] = foreach
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            training.step(optimizer)
        events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
        changes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
        peak = sum(memory.held.values()) + max(accumulate(changes))
        stated = memory.peak(foreach=foreach)
        result["memory_mib"][f"foreach={foreach}"] = {"stated": stated / MIB, "allocated": peak / MIB}
    seconds = []
    for _ in range(case["repeats"]):
        start = clock()
        training.step(optimizer)
        seconds.append(clock() - start)
    return result | {"seconds": {"stated": costs[-1].seconds, "measured": median(seconds)}}


def in_a_process(measure: str, case: dict[str, Any]) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.preflight", "--child", json.dumps(case | {"measure": measure})]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure all cases, and print or write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="two folders with models")
    parser.add_argument("--rows", type=int, default=4, help="samples of a batch, of about a hundred tokens")
    parser.add_argument("--repeats", type=int, default=3, help="steps that are timed")
    parser.add_argument("--one-way", action="store_true", help="the first folder as the student only")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        case = json.loads(options.child)
        print(json.dumps({"resident": resident, "allocated": allocated}[case.pop("measure")](case)))
        return
    one, other = options.folders
    cases = []
    for student, teacher in ((one, other), (other, one))[: 1 if options.one_way else 2]:
        for dtype in ("bfloat16", "float32"):
            case = {"student": str(student), "teacher": str(teacher), "dtype": dtype}
            case |= {"rows": options.rows, "repeats": options.repeats}
            found = in_a_process("allocated", case)
            peak = in_a_process("resident", case | {"foreach": False})["resident_mib"]
            found["memory_mib"]["foreach=False"]["resident"] = peak
            named = {"student": student.name, "teacher": teacher.name, "dtype": dtype}
            cases.append(named | found)
            print(json.dumps(cases[-1]), flush=True)
            if options.json:
                results = {"benchmark": "preflight", "machine": machine(), "cases": cases}
                options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
