"""How well cross-model attention finds correspondences that are known: ``python -m benchmarks.evidence.attention``.

Two tokenizers cut one text, and the bytes that their tokens stand for say which belong together. Attention is told
nothing of it. Small models are trained on the spot, the teacher and a student for each family of tokenizers; then a
student learns by the loss, and on other texts it is counted how often attention looks at the right place. Each
measurement is a line on disk as it comes; what is finished is not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, field
from itertools import chain, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch.optim import AdamW
from torch.optim.lr_scheduler import LinearLR

from benchmarks.evidence.attention_counts import Measured, known, measure
from benchmarks.evidence.attention_page import draw, families, summary, ways
from benchmarks.evidence.attention_pairs import STUDENTS, Pair, Sizes, Texts
from benchmarks.evidence.attention_ways import WAYS, Way
from benchmarks.evidence.journal import Journal
from benchmarks.evidence.page import fill_places
from benchmarks.evidence.shared_query import start_from_shared_tokens
from benchmarks.loss_step.report import machine
from dskd_components import DSKDLoss, Head, clip_grad_norms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained, and for how long.

    Args:
        sizes: of texts and models.
        moments: after how many steps alignment is measured; the last is the end.
        long: the same of runs that go on.
        batch_size: texts of a step.
        lr: of the student.
        projector_lr: of projectors and query.
        other_lrs: at which some runs are made besides.
        seeds: of the order of texts, random projectors and queries.
        students: by whose tokenizers.
        teacher: its tokenizer.
    """

    sizes: Sizes = field(default_factory=Sizes)
    moments: tuple[int, ...] = (0, 8, 16, 32, 64, 128)
    long: tuple[int, ...] = (0, 8, 16, 32, 64, 128, 256, 512)
    batch_size: int = 4
    lr: float = 1e-3
    projector_lr: float = 1e-2
    other_lrs: tuple[float, ...] = (3e-3, 3e-2)
    seeds: tuple[int, ...] = (0, 1)
    students: tuple[str, ...] = tuple(STUDENTS)
    teacher: str = "qwen"

    @classmethod
    def quick(cls) -> Plan:
        """Return a plan of seconds, to see that everything works; its results mean nothing."""
        sizes = Sizes(max_documents=24, train=24, measured=6, student=(32, 1), teacher=(64, 1), steps=4)
        return cls(
            sizes=sizes,
            moments=(0, 2),
            long=(0, 2, 4),
            seeds=(0,),
            students=("llama2",),
            teacher="gpt2",
            other_lrs=(),
        )


@dataclass(frozen=True)
class Run:
    """One student that is trained.

    Args:
        student: its tokenizer.
        way: how attention learns.
        seed: of texts, projectors and query.
        lr: of projectors and query.
        long: whether it goes on.
    """

    student: str
    way: str
    seed: int
    lr: float
    long: bool = False

    @property
    def name(self) -> str:
        """Of its file."""
        way = self.way.replace(", ", "-").replace(" ", "-")
        return f"{self.student}-{way}-{self.lr:g}-{self.seed}{'-long' * self.long}"


def runs_of(plan: Plan) -> list[Run]:
    """Return all runs, those of the first seed first, the most telling first.

    Args:
        plan: the plan.
    """
    first, *others = (
        [Run(student, way, seed, plan.projector_lr) for student, way in product(plan.students, WAYS)]
        for seed in plan.seeds
    )
    student, seed = plan.students[0], plan.seeds[0]
    long = [Run(student, way, seed, plan.projector_lr, long=True) for way in ("published", "no target")]
    rates = [Run(student, way, seed, lr) for way, lr in product(("published", "shared, no target"), plan.other_lrs)]
    return [*first, *long, *rates, *chain.from_iterable(others)]


class Bench:
    """Texts, pairs and models of one folder, made when they are asked for.

    Args:
        folder: of all that is made.
        plan: the numbers.

    Raises:
        SystemExit: the folder was made with other numbers.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        own, file = json.dumps(asdict(plan)), folder / "plan.json"
        if not file.is_file():
            file.write_text(own, encoding="utf-8")
        if file.read_text(encoding="utf-8") != own:
            raise SystemExit(f"{folder} was made with other numbers, see plan.json there. Give another --folder.")
        self._pairs: dict[str, tuple[Pair, dict[str, Measured]]] = {}
        self._texts: Texts | None = None

    def pair(self, student: str) -> tuple[Pair, dict[str, Measured]]:
        """Return a pair, and what alignment is measured on, by kind of text.

        Args:
            student: the student's tokenizer.
        """
        if student not in self._pairs:
            self._texts = self._texts or Texts.load(self.plan.sizes)
            pair = Pair(student, self.plan.teacher, self._texts, self.plan.sizes)
            measured = {kind: Measured(pair, texts) for kind, texts in self._texts.measured.items()}
            self._pairs[student] = pair, measured
        return self._pairs[student]

    def journal(self, name: str) -> Journal:
        """Return the rows of a run.

        Args:
            name: its name.
        """
        return Journal(self.folder / "runs" / f"{name}.jsonl")

    def models(self, pair: Pair) -> dict[str, Any]:
        """Return both models as every run begins with them.

        Args:
            pair: student and teacher.
        """
        return {side: pair.model(side, self.folder) for side in ("student", "teacher")}


def carry_out(bench: Bench, run: Run) -> None:
    """Train a student, and measure alignment on the way; nothing is done for a run that is finished.

    Args:
        bench: the folder.
        run: the run.
    """
    journal = bench.journal(run.name)
    if journal.end is not None:
        return
    journal.back_to(0)
    plan, (pair, measured), way = bench.plan, bench.pair(run.student), WAYS[run.way]
    models, began = bench.models(pair), time.thread_time()
    torch.manual_seed(run.seed)
    loss_fn = loss_of(way, pair, models)
    optimizer = AdamW(
        [
            {"params": list(models["student"].parameters()), "lr": plan.lr},
            *loss_fn.param_groups(lr=run.lr),
        ],
        fused=True,
    )
    moments = plan.long if run.long else plan.moments
    schedule = LinearLR(optimizer, 1.0, 0.02, moments[-1])
    found: dict[str, float] = {}
    for step, texts in zip(range(moments[-1] + 1), pair.draw(run.seed, plan.batch_size), strict=False):
        if step in moments:
            rows = {kind: measure(loss_fn, models, texts) for kind, texts in measured.items()}
            journal.add({"kind": "measured", "step": step, **rows, "terms": found})
        if step < moments[-1]:
            out = loss_fn.run(models["student"], models["teacher"], pair.batch(texts))
            out.loss.backward()
            clip_grad_norms(models["student"], loss_fn, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            found = {name: round(float(value), 5) for name, value in {**out.terms, **out.metrics}.items()}
    journal.add({"kind": "end", "step": moments[-1], "seconds": time.thread_time() - began})


def loss_of(way: Way, pair: Pair, models: Mapping[str, Any]) -> DSKDLoss:
    """Return the loss of a way.

    Args:
        way: the way.
        pair: student and teacher.
        models: by side.
    """
    mapped, same = pair.teacher_to_student
    loss_fn = DSKDLoss(
        way.spec,
        student_hidden_size=pair.sizes.student[0],
        teacher_hidden_size=pair.sizes.teacher[0],
        student_head=Head(models["student"].lm_head.weight),
        teacher_head=Head(models["teacher"].lm_head.weight),
        teacher_to_student_ids=mapped,
        same_token=same,
    )
    if way.shared:
        start_from_shared_tokens(loss_fn, models["student"], models["teacher"])
    return loss_fn


def describe(bench: Bench, student: str) -> None:
    """Write what is known of a pair without learning; nothing is done if it is there.

    Args:
        bench: the folder.
        student: the student's tokenizer.
    """
    journal = bench.journal(f"known-{student}")
    if journal.end is None:
        pair, measured = bench.pair(student)
        models = bench.models(pair)
        journal.back_to(0)
        sizes = {side: len(vocabulary) for side, vocabulary in pair.vocabularies.items()}
        found = {kind: known(models, texts) for kind, texts in measured.items()}
        shared = int(pair.teacher_to_student[1].sum())
        journal.add({"kind": "end", "step": 0, **found, "vocabularies": sizes, "shared": shared})


def results(bench: Bench) -> dict[str, Any]:
    """Return all that is measured so far.

    Args:
        bench: the folder.
    """
    plan = bench.plan
    found = []
    for run in runs_of(plan):
        rows = bench.journal(run.name).rows
        if rows:
            found.append({**vars(run), "rows": [row for row in rows if row["kind"] == "measured"]})
    ends = {student: bench.journal(f"known-{student}").end for student in plan.students}
    facts = {
        student: {name: row[name] for name in row if name not in ("kind", "step")}
        for student, row in ends.items()
        if row
    }
    return {
        "machine": machine(),
        "plan": asdict(plan),
        "ways": {name: way.title for name, way in WAYS.items()},
        "known": facts,
        "runs": found,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, and write results, picture and page.

    Args:
        arguments: of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("output/attention"), help="of all that is made")
    parser.add_argument("--quick", action="store_true", help="tiny models, in seconds; results mean nothing")
    parser.add_argument("--publish", type=Path, help="a checkout, whose page, picture and results are renewed")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    bench = Bench(options.folder, Plan.quick() if options.quick else Plan())
    console = Console()
    for student in bench.plan.students:
        describe(bench, student)
    for run in runs_of(bench.plan):
        carry_out(bench, run)
        last = next(row for row in reversed(bench.journal(run.name).rows) if row["kind"] == "measured")
        console.print(f"{time.strftime('%H:%M')} {run.name}: {last['documentation']['exact']:.1%} right")
    found = results(bench)
    checkout = options.publish
    file = options.folder / "attention.json" if checkout is None else checkout / "benchmarks/results/attention.json"
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found, (options.folder if checkout is None else checkout / "docs/images") / "attention_accuracy.png")
    console.print(summary(found))
    if checkout is not None:
        page = checkout / "docs/explanation/alignment-accuracy.md"
        fill_places(page, {"families": families(found), "attention": ways(found)})


if __name__ == "__main__":
    main()
