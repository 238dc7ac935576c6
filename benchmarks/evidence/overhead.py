"""The loss's share of a training step, as models grow: ``python -m benchmarks.evidence.overhead``.

Pythia's shapes, each student beside a teacher of about twice its size, with random weights. Measured are the parts of a
step, each by itself, in interleaved rounds of one thread's own time: the models without their heads, the optimizer, and
the loss, which has the heads, from hidden states to gradients. Beyond what fits, the same is worked out as ``dskd
plan`` does: for this machine, and for an H100 by its data sheet. Each pair is a line on disk as it comes, and what is
there is not done again.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from rich.console import Console
from torch.nn import functional as F

from benchmarks.clock import seconds
from benchmarks.evidence.journal import Journal
from benchmarks.evidence.overhead_page import draw, parts_table, planned_table, share_table
from benchmarks.evidence.page import fill_places
from benchmarks.loss_step import contestants
from benchmarks.loss_step.case import Case
from benchmarks.loss_step.report import machine
from dskd_components import DSKDSpec
from dskd_components.preflight.device import StatedDevice, ThisMachine, stated_device
from dskd_components.preflight.plan import Setup
from dskd_components.preflight.plan_step import plan_step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dskd_components import LMStates

VOCABULARY: Final = 50304

SHAPES: Final[Mapping[str, tuple[int, int, int]]] = {
    "14M": (128, 6, 4),
    "31M": (256, 6, 8),
    "70M": (512, 6, 8),
    "160M": (768, 12, 12),
    "410M": (1024, 24, 16),
    "1B": (2048, 16, 8),
    "1.4B": (2048, 24, 16),
    "2.8B": (2560, 32, 32),
    "6.9B": (4096, 32, 32),
    "12B": (5120, 36, 40),
}
"""Pythia's models (arXiv 2304.01373): width, layers, heads of attention."""

MEASURED: Final = (("14M", "31M", 3), ("31M", "70M", 3), ("70M", "160M", 2), ("160M", "410M", 1))
"""Students, teachers, and how often the parts of a step are timed: once where that takes minutes."""

PLANNED: Final = (
    *((student, teacher) for student, teacher, _ in MEASURED),
    ("410M", "1B"),
    ("1B", "2.8B"),
    ("2.8B", "6.9B"),
    ("6.9B", "12B"),
)

METHODS: Final = ("vanilla-kd", "dskd", "dskd-cma")
ENGINES: Final = ("tiled", "eager")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a step reads.

    Args:
        tokens: of either side, in samples of 256.
        vocabulary: of both models.
        shapes: of models by name.
        pairs: students and teachers that are measured, and how often.
        planned: that are worked out.
    """

    tokens: int = 512
    vocabulary: int = VOCABULARY
    shapes: Mapping[str, tuple[int, int, int]] = field(default_factory=lambda: SHAPES)
    pairs: Sequence[tuple[str, str, int]] = MEASURED
    planned: Sequence[tuple[str, str]] = PLANNED

    @classmethod
    def quick(cls) -> Batch:
        """Return tiny models, to see that everything works; results mean nothing."""
        shapes = {"tiny": (32, 1, 2), "small": (64, 2, 2)}
        return cls(tokens=256, vocabulary=500, shapes=shapes, pairs=[("tiny", "small", 1)], planned=[("tiny", "small")])

    def config(self, name: str) -> Any:
        """Return the configuration of a model.

        Args:
            name: of its shape.
        """
        from transformers import GPTNeoXConfig

        width, layers, heads = self.shapes[name]
        return GPTNeoXConfig(
            vocab_size=self.vocabulary,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            tie_word_embeddings=False,
        )


def measure(batch: Batch, student: str, teacher: str, rounds: int) -> dict[str, Any]:
    """Time the parts of a step of one pair.

    Args:
        batch: what it reads.
        student: the name of its shape.
        teacher: the name of its shape.
        rounds: how often each part is timed; the median counts.

    Returns:
        ``models``: seconds of the models' passes and of the optimizer. ``loss``: by method and engine, seconds of the
        loss, ``ce`` being cross entropy alone. ``parts``: of the losses with two projections, what the aligner, both
        projections and the bare products with heads take, forward and backward, each by itself.
    """
    sides = {"student": student, "teacher": teacher}
    cases = {method: _case(batch, method, sides) for method in METHODS}
    states = {method: case.states() for method, case in cases.items()}
    works: dict[tuple[str, ...], Callable[[], object]] = {("loss", "ce"): _cross_entropy(states["vanilla-kd"][0])}
    for method, case in cases.items():
        for engine in ENGINES:
            works["loss", f"{method} {engine}"] = contestants.library(case, engine, *states[method])
        works["parts", f"{method} products"] = contestants.fastest_products(case, *states[method])
        if method != "vanilla-kd":
            works["parts", f"{method} projections"] = _projections(case, *states[method])
    works["parts", "dskd-cma aligner"] = _aligner(cases["dskd-cma"], *states["dskd-cma"])
    works |= {("models", name): work for name, work in _models(batch, sides).items()}
    for (_, name), work in works.items():
        if "eager" not in name:  # has nothing to find out when it is first called
            work()
    times = [{name: seconds(work) for name, work in works.items()} for _ in range(rounds)]
    found: dict[str, Any] = {"student": student, "teacher": teacher, "tokens": batch.tokens, "rounds": rounds}
    for group, name in works:
        found.setdefault(group, {})[name] = statistics.median(each[group, name] for each in times)
    return found


def _case(batch: Batch, method: Any, sides: Mapping[str, str]) -> Case:
    widths = batch.shapes[sides["student"]][0], batch.shapes[sides["teacher"]][0]
    return Case(method, batch.tokens, (batch.vocabulary, batch.vocabulary), widths=widths)


def _cross_entropy(student: LMStates) -> Callable[[], object]:
    def step() -> None:
        contestants.forget_gradients(student, None)
        logits = student.head.logits(student.hidden_states[student.scored])
        F.cross_entropy(logits, student.targets[student.scored]).backward()

    return step


def _projections(case: Case, student: LMStates, teacher: LMStates) -> Callable[[], object]:
    projectors = case.loss("tiled").projectors
    theirs, ours = teacher.hidden_states.detach(), student.hidden_states.detach().requires_grad_()

    def step() -> None:
        for direction, given in (("t2s", theirs), ("s2t", ours)):
            F.linear(given, projectors[direction].weight, projectors[direction].bias).sum().backward()

    return step


def _aligner(case: Case, student: LMStates, teacher: LMStates) -> Callable[[], object]:
    aligner = case.loss("tiled").aligner

    def step() -> None:
        found = aligner(student, teacher, None)
        (found.to_student(found.teacher_values).sum() + found.to_teacher(found.student_values).sum()).backward()

    return step


def _models(batch: Batch, sides: Mapping[str, str]) -> dict[str, Callable[[], object]]:
    from transformers import AutoModel

    torch.manual_seed(0)
    length = min(256, batch.tokens)
    ids = torch.randint(0, batch.vocabulary, (batch.tokens // length, length))
    student, teacher = (AutoModel.from_config(batch.config(sides[side])) for side in ("student", "teacher"))
    head = torch.nn.Parameter(torch.zeros(batch.vocabulary, student.config.hidden_size))
    head.grad = torch.zeros_like(head)
    optimizer = torch.optim.AdamW([*student.parameters(), head], lr=1e-5, fused=True)

    @torch.no_grad()
    def of_teacher() -> None:
        teacher(ids, use_cache=False)

    def of_student() -> None:
        student(ids, use_cache=False).last_hidden_state.sum().backward()

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    teacher.eval()
    return {"teacher, forward": of_teacher, "student, forward and backward": of_student, "optimizer": update}


def plan(batch: Batch, student: str, teacher: str, device: str) -> dict[str, Any]:
    """Work out the parts of a step of one pair.

    Args:
        batch: what it reads on this machine; on an H100 it is 8 samples of 2,048 tokens, in bfloat16.
        student: the name of its shape.
        teacher: the name of its shape.
        device: ``cpu``, ``h100``, or ``h100, TF32``, where products in float32 may be rounded to that.

    Returns:
        By method, the seconds of each part that runs.
    """
    from transformers import AutoModelForCausalLM

    on_cpu = device == "cpu"
    where: ThisMachine | StatedDevice = ThisMachine() if on_cpu else stated_device("h100")
    if isinstance(where, StatedDevice) and device != "h100":
        where = replace(where, float32_flops=494e12)
    dtype = torch.float32 if on_cpu else torch.bfloat16
    with torch.device("meta"):
        models = [
            AutoModelForCausalLM.from_config(batch.config(name), dtype=dtype, attn_implementation="sdpa")
            for name in (student, teacher)
        ]
    tokens, length = (batch.tokens, min(256, batch.tokens)) if on_cpu else (16384, 2048)
    found: dict[str, Any] = {"student": student, "teacher": teacher, "device": device, "tokens": tokens}
    for method in METHODS:
        setup = Setup(spec=DSKDSpec.preset(method), tokens=tokens, length=length)
        parts = plan_step(*models, setup, where).parts
        found[method] = {part.component: part.seconds for part in parts if part.kind == "in turn"}
    return found


def collected(batch: Batch, journal: Journal, console: Console) -> dict[str, Any]:
    """Measure and work out what is not there yet, and return all of it.

    Args:
        batch: what a step reads.
        journal: the rows.
        console: where progress is shown.
    """
    done = {(row["kind"], row["student"], row.get("device")) for row in journal.rows}
    for device in ("cpu", "h100", "h100, TF32"):
        for pair in batch.planned:
            if ("planned", pair[0], device) not in done:
                journal.add({"kind": "planned", "step": 0, **plan(batch, *pair, device)})
                console.print(f"planned {' <- '.join(pair)}, {device}")
    for student, teacher, rounds in batch.pairs:
        if ("measured", student, None) not in done:
            journal.add({"kind": "measured", "step": 0, **measure(batch, student, teacher, rounds)})
            gc.collect()
            console.print(f"measured {student} <- {teacher}")
    return {
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "vocabulary": batch.vocabulary,
        "shapes": {name: list(shape) for name, shape in batch.shapes.items()},
        "measured": [row for row in journal.rows if row["kind"] == "measured"],
        "planned": [row for row in journal.rows if row["kind"] == "planned"],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, work out, and write results, picture and page.

    Args:
        arguments: of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("output/overhead"), help="of all that is made")
    parser.add_argument("--quick", action="store_true", help="tiny models, in seconds; results mean nothing")
    parser.add_argument("--publish", type=Path, help="a checkout, whose page, picture and results are renewed")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    batch = Batch.quick() if options.quick else Batch()
    found = collected(batch, Journal(options.folder / "rows.jsonl"), console)
    checkout = options.publish
    file = options.folder / "overhead.json" if checkout is None else checkout / "benchmarks/results/overhead.json"
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found, (options.folder if checkout is None else checkout / "docs/images") / "overhead.png")
    tables = {"shares": share_table(found), "parts": parts_table(found), "planned": planned_table(found)}
    console.print("\n\n".join(tables.values()))
    if checkout is not None:
        fill_places(checkout / "docs/explanation/overhead.md", tables)


if __name__ == "__main__":
    main()
