"""``python -m benchmarks.parts STUDENT TEACHER``: which part of a step takes how much of its time.

Two saved models are the folders. A step is what a training loop does with a batch: the teacher's forward pass, the
student's, the loss, all of `backward`, AdamW. The models' own parts are timed by themselves, on the same batch; the
rest is the loss. Rounds are interleaved, and on a CPU processor time is counted, so that other work on the machine
weighs on all alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.loss_step.report import machine
from dskd_components import DSKDLoss, DSKDSpec, DualTokenizerCollator
from dskd_components.preflight import SAMPLE_TEXTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

PARTS = ("teacher, forward", "student, forward and backward", "loss", "optimizer")


class Step:
    """A training step of two models, whole and in parts.

    Args:
        student: folder.
        teacher: folder.
        spec: of the loss.
        dtype: of the student; the teacher is in bfloat16.
        rows: samples of a batch.
        length: tokens of a row of the student, at most.
        device: where it runs.
        untrained: models of the folders' configurations with random weights, which take the same time.
    """

    def __init__(
        self,
        student: str,
        teacher: str,
        spec: DSKDSpec,
        dtype: torch.dtype,
        rows: int,
        length: int,
        *,
        device: str = "cpu",
        untrained: bool = False,
    ) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        def model(folder: str, dtype: torch.dtype) -> Any:
            if untrained:
                made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)
            else:
                made = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
            return made.to(device)

        tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (student, teacher)]
        text = " ".join(SAMPLE_TEXTS)
        collate = DualTokenizerCollator(*tokenizers, aligner=spec.aligner, student_max_length=length)
        shift = len(text) // rows
        batch = dict(collate([{"text": (text[shift * row :] + text) * 20} for row in range(rows)]))
        self.batch = {name: column.to(device) for name, column in batch.items()}
        self.student: Any = model(student, dtype).train()
        self.teacher: Any = model(teacher, torch.bfloat16).eval()
        self.teacher.requires_grad_(False)
        self.loss_fn = DSKDLoss.from_models(spec, self.student, self.teacher, *tokenizers).to(device)
        groups = [{"params": list(self.student.parameters())}, *self.loss_fn.param_groups(lr=1e-4)]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-5)

    def whole(self) -> None:
        """All of it."""
        self.loss_fn.run(self.student, self.teacher, self.batch).loss.backward()
        self.update()

    def update(self) -> None:
        """The optimizer's part."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)

    @torch.no_grad()
    def of_teacher(self) -> None:
        """The teacher's forward pass, without its head."""
        _hidden_states(self.teacher, self.batch, "teacher")

    def of_student(self) -> None:
        """The student's forward and backward pass, without its head."""
        _hidden_states(self.student, self.batch, "student").sum().backward()

    @property
    def ways(self) -> Mapping[str, Callable[[], None]]:
        """What is timed."""
        return {
            "whole": self.whole,
            "teacher, forward": self.of_teacher,
            "student, forward and backward": self.of_student,
            "optimizer": self.update,
        }


def _hidden_states(model: Any, batch: Mapping[str, Tensor], side: str) -> Tensor:
    columns = {name: batch[f"{side}_{name}"] for name in ("input_ids", "attention_mask")}
    found: Tensor = model.base_model(**columns, use_cache=False).last_hidden_state
    return found


def seconds(work: Callable[[], None], device: str) -> float:
    """Processor time of a call; time on the wall of one whose work is another device's."""
    if device == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.accelerator.synchronize()
    start = time.perf_counter()
    work()
    torch.accelerator.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure, print a table, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student")
    parser.add_argument("teacher")
    parser.add_argument("--preset", default="dskd-cma")
    parser.add_argument("--products", default="fastest", choices=("fastest", "half_gradients", "torch"))
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compiled", action="store_true", help="with compiled blocks; on a CUDA device")
    parser.add_argument("--untrained", action="store_true", help="random weights: the folders need none")
    parser.add_argument("--json", type=Path, help="a row is added there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    engine = {"name": "tiled", "products": options.products, "compiled": options.compiled}
    spec = DSKDSpec.preset(options.preset, engine=engine)
    step = Step(
        options.student,
        options.teacher,
        spec,
        getattr(torch, options.dtype),
        options.rows,
        options.length,
        device=options.device,
        untrained=options.untrained,
    )
    for work in step.ways.values():
        work()
    rounds = [
        {name: seconds(work, options.device) for name, work in step.ways.items()}
        for _ in track(range(options.rounds), description="rounds")
    ]
    found = {name: statistics.median(each[name] for each in rounds) for name in step.ways}
    found["loss"] = found["whole"] - sum(time for name, time in found.items() if name != "whole")
    row = {
        "student": Path(options.student).name,
        "teacher": Path(options.teacher).name,
        "preset": options.preset,
        "products": options.products,
        "compiled": options.compiled,
        "device": options.device,
        "dtype": options.dtype,
        "scored_tokens": int((step.batch["student_labels"] >= 0).sum()),
        "threads": options.threads,
        "kernels": spec.engine.kernels(),
        "seconds": found,
        "share": {part: found[part] / found["whole"] for part in PARTS},
        "machine": machine(),
    }
    if options.device.startswith("cuda"):
        row["machine"]["gpu"] = torch.cuda.get_device_name()
    table = Table("part", "seconds", "share of a step", title=f"{row['student']} <- {row['teacher']}, {options.dtype}")
    for part in PARTS:
        table.add_row(part, f"{found[part]:.3f}", f"{found[part] / found['whole']:.0%}")
    Console().print(table)
    if options.json:
        rows = json.loads(options.json.read_text(encoding="utf-8")) if options.json.is_file() else []
        options.json.write_text(json.dumps([*rows, row], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
