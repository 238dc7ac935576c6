"""What a cut head takes of each rank's memory; ``python -m benchmarks.vocabulary_parallel``.

The models are left out: their hidden states are given. Each way runs in gloo processes of its own. Memory is what the
heads take that a rank has, with the most that tensors take at once in a step of the loss, gradients and gathered heads
among them. Processor time is counted, so that a busy machine weighs on all alike.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from rich.console import Console
from rich.table import Table
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.profiler import ProfilerActivity, profile

from dskd_components import DSKDLoss, DSKDSpec, Head, LMStates
from dskd_components.models.head_part import HeadPart

MIB = 2**20
ONE, SAME_ROWS, ROWS_APART = "one process", "tensor parallelism", "FSDP2"
GATHERED = ", gathered"


@dataclass(frozen=True)
class Shape:
    """A step's sizes: tokens of all ranks, rows of both heads, widths of student and teacher, budget in MiB."""

    tokens: int = 64
    vocabulary: int = 151_936
    student: int = 1024
    teacher: int = 2048
    budget: float = 128.0


def heads_of(shape: Shape, way: str) -> tuple[Head, Head, int]:
    """Return both heads, float32 and bfloat16, as a rank has them, and the bytes that they take there."""
    weights = [
        torch.randn(shape.vocabulary, shape.student).div_(shape.student**0.5),
        torch.randn(shape.vocabulary, shape.teacher, dtype=torch.bfloat16).div_(shape.teacher**0.5),
    ]
    if way == ONE:
        student, teacher = Head(weights[0].requires_grad_()), Head(weights[1])
        return student, teacher, student.weight.nbytes + teacher.weight.nbytes
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    cut = [distribute_tensor(weight, mesh, [Shard(0)]).clone() for weight in weights]
    cut[0].requires_grad_()
    same_rows = way.startswith(SAME_ROWS)
    student, teacher = (HeadPart.of(weight, same_rows=same_rows) for weight in cut)
    return student, teacher, sum(weight.to_local().nbytes for weight in cut)


def measured(shape: Shape, way: str) -> dict[str, float]:
    """Return what one rank takes for a step."""
    torch.manual_seed(0)
    student_head, teacher_head, of_heads = heads_of(shape, way)
    option = "never" if way.endswith(GATHERED) else "always"
    engine = {"name": "tiled", "memory_budget_mib": shape.budget, "vocabulary_parallel": option, "products": "torch"}
    spec = DSKDSpec.preset("dskd", engine=engine)
    loss_fn = DSKDLoss(spec, student_hidden_size=shape.student, teacher_hidden_size=shape.teacher)
    apart = dist.get_world_size() if way.startswith(ROWS_APART) else 1
    targets = torch.randint(shape.vocabulary, (1, shape.tokens // apart))
    sides = [
        LMStates(hidden_states=torch.randn(*targets.shape, width), targets=targets, head=head)
        for width, head in ((shape.student, student_head), (shape.teacher, teacher_head))
    ]
    sides[0].hidden_states.requires_grad_()
    # Without large pages the engine's matrices come from torch's allocator, too, and are counted.
    if hasattr(mmap, "MADV_HUGEPAGE"):
        del mmap.MADV_HUGEPAGE
    start = time.process_time()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        loss_fn(*sides, num_items_in_batch=shape.tokens).loss.backward()
    seconds = time.process_time() - start
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return {"heads": of_heads / MIB, "step": max(accumulate(changes)) / MIB, "seconds": seconds}


def run_rank(rank: int, ranks: int, folder: str, shape: Shape, way: str) -> None:
    """Measure one rank, and leave what was found in a folder."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    found = measured(shape, way)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def most_of_ranks(shape: Shape, way: str, ranks: int) -> dict[str, float]:
    """Return what the rank takes that takes most."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(run_rank, args=(ranks, folder, shape, way), nprocs=ranks, start_method="spawn")
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(ranks)]
    return {name: max(each[name] for each in found) for name in found[0]}


def main() -> None:
    """Measure, print a table, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in asdict(Shape()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    shape = Shape(**{name: getattr(options, name) for name in asdict(Shape())})
    ways = [(ONE, 1), *((way, ranks) for way in (SAME_ROWS, ROWS_APART) for ranks in options.ranks)]
    ways += [(way + GATHERED, max(options.ranks)) for way in (SAME_ROWS, ROWS_APART)]
    table, results = Table("heads", "ranks", "heads, MiB", "step, MiB", "of one process", "processor seconds"), []
    for way, ranks in ways:
        found = most_of_ranks(shape, way, ranks)
        memory = found["heads"] + found["step"]
        results.append({"way": way, "ranks": ranks, **found, "memory": memory})
        share = memory / results[0]["memory"]
        numbers = (f"{found['heads']:.0f}", f"{found['step']:.0f}", f"{share:.2f}", f"{found['seconds']:.1f}")
        table.add_row(way, str(ranks), *numbers)
    Console().print(table)
    if options.json:
        versions = {name: version(name) for name in ("dskd-components", "torch")}
        machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
        report = {"machine": machine, "versions": versions, "shape": asdict(shape), "results": results}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
