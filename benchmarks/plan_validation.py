"""``python -m benchmarks.plan_validation``: what ``dskd plan`` states of a step, beside what real steps take.

Pairs of random models from 0.1 to 135 million parameters, trained in one process, and in two by DDP and FSDP2 (gloo),
the latter also with heads that stay cut over the processes (``fsdp2-cut``, both models sharded). ``zero1`` to ``zero3``
need DeepSpeed.
Each way has processes of its own, with one thread each:

- *planned*: from models on the meta device, for this machine; how fast processes talk to one another is measured first,
  by summing many numbers and one;
- *allocated*: the most that torch's allocator was asked for at once in the second step, models, optimizer and buckets
  included, on the rank that needs the most;
- *seconds*: of the processor in a process, so that other processes on the machine count little: of the fastest of some
  steps, as the fastest counts of what the plan measures, on the rank that takes the most.
"""

from __future__ import annotations

import argparse
import gc
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.loss_step.report import machine
from dskd_components import DSKDLoss, DSKDSpec
from dskd_components.distributed import reduce_gradients, synchronise, world_size
from dskd_components.preflight.device import ThisMachine
from dskd_components.preflight.link import Link, measured_link
from dskd_components.preflight.plan import Setup
from dskd_components.preflight.plan_step import plan_step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MIB = 2**20
WITHIN = {"memory": 0.15, "time": 0.30}


@dataclass(frozen=True)
class Shape:
    """The shape of a Llama-like model."""

    width: int
    layers: int
    vocabulary: int
    tied: bool = True

    def config(self) -> Any:
        """Its configuration."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.width * 8 // 3 // 8 * 8,
            num_hidden_layers=self.layers,
            num_attention_heads=max(2, self.width // 64),
            num_key_value_heads=max(1, self.width // 192),
            tie_word_embeddings=self.tied,
        )


@dataclass(frozen=True)
class Pair:
    """Two models and what a step reads."""

    student: Shape
    teacher: Shape
    rows: int
    length: int
    dtype: str = "float32"
    spec: str = "span"
    budget: float = 64.0


PAIRS: Mapping[str, Pair] = {
    "0.1M <- 0.6M": Pair(Shape(64, 2, 512), Shape(96, 4, 1200, tied=False), rows=16, length=128),
    "3M <- 12M, cma": Pair(Shape(192, 4, 6000), Shape(320, 6, 8000), rows=8, length=128, spec="cma"),
    "28M <- 135M": Pair(Shape(384, 6, 32000), Shape(576, 30, 49152), rows=4, length=128, budget=128),
    "135M <- 28M, bfloat16": Pair(
        Shape(576, 30, 49152), Shape(384, 6, 32000), rows=4, length=128, dtype="bfloat16", budget=128
    ),
}
MODES = ("none", "ddp", "fsdp2", "fsdp2-cut", "zero1", "zero2", "zero3")


def spec_of(pair: Pair, mode: str) -> DSKDSpec:
    """What is computed."""
    linear = {"name": "linear", "init": "torch"}
    engine = {"name": "tiled", "memory_budget_mib": pair.budget}
    engine |= {"vocabulary_parallel": "always"} if mode == "fsdp2-cut" else {}
    return DSKDSpec(aligner=pair.spec, t2s_projector=linear, s2t_projector=linear, engine=engine)


def config_of(case: Mapping[str, Any], side: str) -> Any:
    """The configuration of a side: a folder's, where one is given for it."""
    if case.get(side):
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(case[side])
    return getattr(PAIRS[case["pair"]], side).config()


def build(config: Any, dtype: str) -> Any:
    """A random model, or the folder's."""
    from transformers import AutoModelForCausalLM

    if isinstance(config, str):
        return AutoModelForCausalLM.from_pretrained(config, dtype=getattr(torch, dtype))
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))


def planned(case: Mapping[str, Any]) -> dict[str, Any]:
    """What is stated of a step."""
    pair, ranks = PAIRS[case["pair"]], case["ranks"]
    with torch.device("meta"):
        models = [build(config_of(case, side), pair.dtype) for side in ("student", "teacher")]
    setup = Setup(
        spec=spec_of(pair, case["mode"]),
        tokens=pair.rows * pair.length * ranks,
        length=pair.length,
        devices=ranks,
        sharding=case["mode"].removesuffix("-cut"),
        teacher="sharded" if case["mode"] == "fsdp2-cut" else "replicated",
    )
    plan = plan_step(*models, setup, ThisMachine(**case["link"]))
    return {
        "mib": plan.bytes / MIB,
        "seconds": plan.seconds,
        "parts": {part.component: [part.seconds, part.bytes / MIB] for part in plan.parts},
    }


class Training:
    """Models, loss, optimizer and a batch of one rank."""

    def __init__(self, case: Mapping[str, Any]) -> None:
        pair = PAIRS[case["pair"]]
        torch.manual_seed(0)
        self.student = build(case.get("student") or config_of(case, "student"), pair.dtype).train()
        self.teacher = build(config_of(case, "teacher"), pair.dtype).eval().requires_grad_(False)
        self.batch = batch_of(pair, [model.config.vocab_size for model in (self.student, self.teacher)])
        self.loss_fn = DSKDLoss.from_models(spec_of(pair, case["mode"]), self.student, self.teacher)
        synchronise(self.loss_fn)
        self.model: Any = self.student
        if case["mode"] == "ddp":
            self.model = DistributedDataParallel(self.student)
        elif case["mode"] == "fsdp2":
            shard(self.student)
        elif case["mode"] == "fsdp2-cut":
            for model in (self.student, self.teacher):
                shard(model, reshard_after_forward=True)
        groups = [{"params": list(self.student.parameters())}, *self.loss_fn.param_groups(lr=1e-4)]
        self.engine: Any = None
        if case["mode"].startswith("zero"):
            self.engine = self.model = in_deepspeed(self.student, int(case["mode"].removeprefix("zero")))
            groups = self.loss_fn.param_groups(lr=1e-4)
        self.optimizer = torch.optim.AdamW(groups, lr=1e-5, foreach=False)

    def step(self) -> None:
        """One step of training, as in the documentation."""
        scored = sum((self.batch["student_labels"][:, 1:] >= 0).sum() for _ in range(world_size()))
        out = self.loss_fn.run(self.model, self.teacher, self.batch, num_items_in_batch=scored)
        loss = out.loss * world_size()
        if self.engine is None:
            loss.backward()
        else:
            self.engine.backward(loss)
            self.engine.step()
        reduce_gradients(self.loss_fn)
        self.optimizer.step()
        self.optimizer.zero_grad()


def in_deepspeed(student: Any, stage: int) -> Any:
    """The student in an engine of a stage, with DeepSpeed's own buckets."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # or it compiles something
    deepspeed.init_distributed("gloo", dist_init_required=False)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "bf16": {"enabled": next(student.parameters()).dtype == torch.bfloat16},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-5, "torch_adam": True, "foreach": False}},
    }
    engine, *_ = deepspeed.initialize(model=student, model_parameters=list(student.parameters()), config=config)
    return engine


def shard(model: Any, *, reshard_after_forward: bool | None = None) -> None:
    """Let FSDP2 shard layers, and the rest."""
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model, reshard_after_forward=reshard_after_forward)


def batch_of(pair: Pair, vocabularies: list[int]) -> dict[str, torch.Tensor]:
    """Random tokens, of which those at the same place belong together."""
    groups = torch.arange(pair.length).expand(pair.rows, -1)
    batch = {}
    for side, vocabulary in zip(("student", "teacher"), vocabularies, strict=True):
        ids = torch.randint(vocabulary, (pair.rows, pair.length))
        batch |= {f"{side}_input_ids": ids, f"{side}_labels": ids, f"{side}_groups": groups}
    return batch


def memory_of(case: Mapping[str, Any]) -> float:
    """The peak of this rank's tensors in the second step, in MiB."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        training = Training(case)
        training.step()
        with record_function("second step"):
            training.step()
    events = list(profiled.profiler.kineto_results.events())
    begins = min(event.start_ns() for event in events if event.name() == "second step")
    memory = sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns())
    totals = accumulate(event.nbytes() for event in memory)
    return max(total for event, total in zip(memory, totals, strict=True) if event.start_ns() >= begins) / MIB


def seconds_of(case: Mapping[str, Any]) -> float:
    """The processor's seconds of the fastest step after the first."""
    training = Training(case)
    times = []
    for _ in range(case["repeats"] + 1):
        start = time.process_time()
        training.step()
        times.append(time.process_time() - start)
    return min(times[1:])


def on_rank(options: dict[str, Any]) -> None:
    """Plan and measure all pairs in one way, and print a line of JSON for each."""
    torch.set_num_threads(1)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        del mmap.MADV_HUGEPAGE  # then scratch memory comes from the allocator, too, and is counted
    rank, ranks = int(os.environ.get("RANK", "0")), options["ranks"]
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{options['folder']}/ranks", rank=rank, world_size=ranks)
    for name in options["pairs"]:
        link = measured_link(time.process_time) if ranks > 1 else Link(bandwidth=1e9, latency=0.0)
        case = options | {"pair": name, "link": vars(link)}
        if options["model"] and name.startswith("135M"):
            case["student"] = options["model"]
        if ranks > 1:
            dist.barrier()
        plan = planned(case)  # on all ranks at once, as they train
        found: list[Any] = [None] * ranks
        of_rank = {"seconds": seconds_of(case), "mib": memory_of(case)}
        if ranks > 1:
            dist.all_gather_object(found, of_rank)
        else:
            found = [of_rank]
        if rank == 0:
            row = {"pair": name, "mode": options["mode"], "link": case["link"], "planned": plan}
            row |= {what: max(each[what] for each in found) for what in of_rank}
            errors = {what: plan[what] / row[what] - 1 for what in of_rank}
            print("ROW " + json.dumps(row | {"errors": errors}), flush=True)
    if ranks > 1:
        dist.destroy_process_group()


def in_processes(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Run all pairs in one way on each rank, and yield the rows as they come."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "benchmarks.plan_validation",
            "--child",
            json.dumps(options | {"folder": folder}),
        ]
        running = [
            subprocess.Popen(
                command,
                env=os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(options["ranks"])
        ]
        assert running[0].stdout is not None, "a pipe"
        for line in running[0].stdout:
            if line.startswith("ROW "):
                yield json.loads(line.removeprefix("ROW "))
        for process in running:
            process.communicate()
    if any(process.returncode for process in running):
        raise SystemExit(f"{options['mode']}: a process failed")


def main() -> None:
    """Measure all cases, and print or write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder with the student of 135M")
    parser.add_argument("--pair", action="append", choices=PAIRS, help="this one only; may be repeated")
    parser.add_argument("--mode", action="append", choices=MODES, help="this one only; may be repeated")
    parser.add_argument("--repeats", type=int, default=3, help="steps that are timed")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        on_rank(json.loads(options.child))
        return
    rows = []
    for mode in options.mode or MODES:
        asked = {"mode": mode, "ranks": 1 if mode == "none" else 2, "repeats": options.repeats}
        asked |= {"pairs": options.pair or list(PAIRS), "model": None if options.model is None else str(options.model)}
        for row in in_processes(asked):
            rows.append(row)
            plan, errors = row["planned"], row["errors"]
            memory = f"{plan['mib']:,.0f} | {row['mib']:,.0f} ({errors['mib']:+.0%})"
            seconds = f"{plan['seconds']:.3g} | {row['seconds']:.3g} ({errors['seconds']:+.0%})"
            print(f"{row['pair']} | {mode} | {memory} | {seconds}", flush=True)
            if options.json:
                results = {"benchmark": "plan", "machine": machine(), "within": WITHIN, "cases": rows}
                options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
