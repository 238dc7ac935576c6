"""What a store of a teacher's states costs and loses; ``python -m benchmarks.teacher_store --json FILE``.

Four questions: what a step from the store takes beside one with the live teacher, and beside one whose states are in
memory already; how many bytes a state takes; how fast a store of ten million tokens opens; and what the formats lose,
in the loss of one step and in what students learn (the demo's models). Rounds of all contestants are interleaved, so
that a busy machine weighs on all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from dskd_components import DSKDLoss, DSKDSpec, DualTokenizerCollator, ReadAheadCollator, TeacherStore
from dskd_components.models.offline_teacher import OfflineTeacher
from dskd_components.store.formats import bytes_per_state
from dskd_components.store.index import Index
from dskd_components.store.shards import Shard
from dskd_components.store.sizes import measured
from examples.distil_two_tokenizers import distil, train_without_teacher
from examples.two_tokenizers.batches import collate
from examples.two_tokenizers.measuring import measure
from examples.two_tokenizers.models import new_student, new_teacher
from examples.two_tokenizers.preparation import prepare
from examples.two_tokenizers.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from dskd_components.models.row_layout import RowLayout
    from examples.two_tokenizers.preparation import Preparation

FORMATS = ("float32", "bfloat16", "int8")
SPEC = DSKDSpec.preset("dskd-cma")
IN_MEMORY, LIVE, AHEAD, IN_STEP = "states in memory", "live teacher", "store, read ahead", "store, read in the step"


class InMemory(OfflineTeacher):
    """A teacher whose states are there before the step: what a step costs without any teacher.

    Args:
        store: where they come from.
    """

    def __init__(self, store: TeacherStore) -> None:
        super().__init__(store.head, store.embedding, configuration=store.configuration, tokenizer=store.tokenizer)
        self._store = [store]
        self._known: dict[int, Tensor] = {}

    def hidden_states(self, columns: Mapping[str, Tensor], layout: RowLayout, targets: Tensor) -> Tensor:
        """Return the states of a batch that was asked for before, as they are in memory."""
        key = int(columns["input_ids"].double().square().sum())
        if key not in self._known:
            self._known[key] = self._store[0].hidden_states(columns, layout, targets).float()
        return self._known[key]


def steps(prepared: Preparation, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time training steps of one student with each kind of teacher."""
    length = 258
    teacher = new_teacher(
        prepared.teacher_tokenizer, width=576, layers=options.layers, max_length=length, seed=0
    ).eval()
    student = new_student(prepared.student_tokenizer, width=256, layers=4, max_length=length, seed=1)
    own = prepared.student_tokenizer, prepared.teacher_tokenizer
    make = DualTokenizerCollator(*own, aligner=SPEC.aligner)
    texts = [{"text": example.text} for example in prepared.student_train[: 8 * options.batches]]
    store = TeacherStore.build(folder, teacher, make, texts, dtype="int8", batch_size=16)
    loss_fn = DSKDLoss.from_models(SPEC, student, store, *own)
    optimizer = torch.optim.AdamW([{"params": student.parameters(), "lr": 1e-4}, *loss_fn.param_groups(lr=1e-3)])

    def epoch(whose: Any, collator: Any = make) -> tuple[float, float]:
        # All batches come from two workers, so that only the states make a difference.
        waiting = iter(DataLoader(texts, batch_size=8, collate_fn=collator, num_workers=2))  # type: ignore[arg-type]
        _step(student, loss_fn, optimizer, whose, next(waiting))  # workers have begun then
        wall, own_time, count = time.perf_counter(), time.process_time(), 0
        for batch in waiting:
            _step(student, loss_fn, optimizer, whose, batch)
            count += 1
        return (time.perf_counter() - wall) / count, (time.process_time() - own_time) / count

    in_memory = InMemory(store)
    ways: dict[str, Callable[[], tuple[float, float]]] = {
        IN_MEMORY: lambda: epoch(in_memory),
        LIVE: lambda: epoch(teacher),
        AHEAD: lambda: epoch(store, ReadAheadCollator(make, store)),
        IN_STEP: lambda: epoch(store),
    }
    for way in ways.values():
        way()
    rounds = [{name: way() for name, way in ways.items()} for _ in range(options.rounds)]
    size = measured(store.reader)
    return {
        "shape": {"teacher": f"576 x {options.layers}", "student": "256 x 4", "batch": 8},
        "int8 bytes a unit, all included": size.per_state() / 576,
        "MB held": {
            "live teacher": sum(parameter.nbytes for parameter in teacher.parameters()) / 1e6,
            "store": sum(buffer.nbytes for buffer in store.buffers()) / 1e6,
        },
        "ways": {name: _beside(rounds, name) for name in ways},
    }


def _step(student: Any, loss_fn: DSKDLoss, optimizer: torch.optim.Optimizer, teacher: Any, batch: Any) -> None:
    loss_fn.run(student, teacher, batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _beside(rounds: list[dict[str, tuple[float, float]]], name: str) -> dict[str, float]:
    ratios = sorted(found[name][0] / found[IN_MEMORY][0] for found in rounds)
    own = [found[name][1] / found[IN_MEMORY][1] for found in rounds]
    return {
        "seconds": statistics.median(found[name][0] for found in rounds),
        "ratio": statistics.median(ratios),
        "from": ratios[0],
        "to": ratios[-1],
        "own time": statistics.median(own),
    }


OPENING = """
import json, sys, time
import dskd_components, tokenizers
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before, start = resident(), time.perf_counter()
store = dskd_components.TeacherStore(sys.argv[1])
took, grown = time.perf_counter() - start, resident() - before
start = time.perf_counter()
numbers = range(0, len(store), max(len(store) // 100, 1))
tokens = [store.reader.sample(number).input_ids for number in numbers]
reading = (time.perf_counter() - start) / len(tokens)
print(json.dumps({"seconds": took, "MB": grown / 1e6, "samples": len(store), "seconds a sample read": reading}))
"""


def opening(prepared: Preparation, options: argparse.Namespace, place: Path) -> dict[str, float]:
    """Open a store of many tokens, whose states are holes in sparse files, in a process of its own."""
    teacher = new_teacher(prepared.teacher_tokenizer, width=576, layers=1, max_length=258, seed=0).eval()
    own, folder = prepared.teacher_tokenizer, place / "sparse"
    folder.mkdir()
    one = [{"text": prepared.student_train[0].text}]
    store = TeacherStore.build(place / "one", teacher, DualTokenizerCollator(own, own, aligner=None), one, dtype="int8")
    for path in store.folder.iterdir():
        if path.name.startswith(("manifest", "teacher-")):
            (folder / path.name).write_bytes(path.read_bytes())
    generator, left, number = np.random.default_rng(0), options.tokens, 0
    while left > 0:
        _sparse_shard(folder / f"states-{number:032d}.safetensors", generator, min(left, 200_000))
        left, number = left - 200_000, number + 1
    names = sorted(path.name for path in folder.glob("states-*"))
    Index.of_shards((name, Shard(folder / name)) for name in names).write(folder)
    # Checksums are not those of the holes.
    program = OPENING.replace("sys.argv[1])", "sys.argv[1], check=False)")
    found = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    logical = sum(path.stat().st_size for path in folder.iterdir())
    return json.loads(found.stdout) | {"tokens": options.tokens, "GB on paper": logical / 1e9}


def _sparse_shard(path: Path, generator: np.random.Generator, tokens: int) -> None:
    """Write a shard of int8 states of width 576 that takes no more room than its tokens."""
    samples = tokens // 200
    starts = np.arange(samples + 1, dtype=np.int64) * 200
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "checksums": np.zeros(samples, dtype=np.int64),
        "state_start": starts,
        "token_start": starts,
        "input_ids": generator.integers(0, 1536, samples * 200).astype(np.int32),
        "stored": np.ones(samples * 200, dtype=np.bool_),
    }
    kinds = {"int64": "I64", "int32": "I32", "bool": "BOOL"}
    header: dict[str, Any] = {"__metadata__": {"dskd_components": json.dumps({"kind": "states"})}}
    offset = 0
    for name, array in arrays.items():
        end = offset + array.nbytes
        header[name] = {"dtype": kinds[str(array.dtype)], "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    for name, kind, width, size in (("scales", "BF16", 9, 2), ("states", "I8", 576, 1)):
        end = offset + samples * 200 * width * size
        header[name] = {"dtype": kind, "shape": [samples * 200, width], "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            opened.write(array.tobytes())
        opened.truncate(8 + len(text) + offset)


def learning(prepared: Preparation, settings: Settings, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Train students of some seeds from a trained teacher and from its stores; yield what each has learned."""
    teacher = new_teacher(
        prepared.teacher_tokenizer,
        width=settings.teacher_width,
        layers=settings.teacher_layers,
        max_length=settings.max_length,
        seed=settings.teacher_seed,
    )
    _train(teacher, prepared, settings)
    own = prepared.student_tokenizer, prepared.teacher_tokenizer

    def batches_of(examples: list[Any]) -> dict[str, Tensor]:
        return dict(collate(examples, prepared.padding))

    teachers: dict[str, Any] = {LIVE: teacher}
    for dtype in FORMATS:
        teachers[dtype] = TeacherStore.build(folder / dtype, teacher, batches_of, prepared.student_train, dtype=dtype)
    for name, whose in teachers.items():
        scores, first = [], []
        for seed in settings.seeds:
            student = new_student(
                prepared.student_tokenizer,
                width=settings.student_width,
                layers=settings.student_layers,
                max_length=settings.max_length,
                seed=seed,
            )
            loss_fn = DSKDLoss.from_models(SPEC, student, whose, *own)
            batches = prepared.training_batches("student", settings.batch_size, settings.steps, seed)
            rates = {"lr": settings.student_lrs["dskd-cma"], "projector_lr": settings.projector_lr}
            losses = [float(each["loss"]) for each in distil(student, whose, loss_fn, batches, **rates)]
            first.append(losses[0])
            live = loss_fn.run(student, teacher, batches[0]).loss.item()
            off = abs(loss_fn.run(student, whose, batches[0]).loss.item() - live) / live
            held_out = measure(student, prepared.held_out, "student").nats_per_byte
            scores.append({"seed": seed, "held out, nats a byte": held_out, "loss off by, relative": off})
        yield name, {"students": scores, "first losses": first}


def _train(teacher: Any, prepared: Preparation, settings: Settings) -> None:
    batches = prepared.training_batches(
        "teacher", settings.teacher_batch_size, settings.teacher_steps, settings.teacher_seed
    )
    for _ in train_without_teacher(teacher, batches, "teacher", lr=settings.teacher_lr):
        pass
    teacher.eval().requires_grad_(False)


PARTS = ("steps", "opening", "learning")


def main() -> None:
    """Measure, print tables, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=PARTS, help=f"some of {', '.join(PARTS)}; others stay in the file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=12, help="steps in a round")
    parser.add_argument("--layers", type=int, default=8, help="of the teacher whose steps are timed")
    parser.add_argument("--tokens", type=int, default=10_000_000, help="of the store that is opened")
    parser.add_argument("--quick", action="store_true", help="the demo's quick settings; results mean nothing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"expected some of {', '.join(PARTS)}, got {unknown[0]!r}")
    torch.set_num_threads(options.threads)
    settings = Settings.quick() if options.quick else Settings()
    prepared = prepare(settings)
    report: dict[str, Any] = json.loads(options.json.read_text()) if options.json and options.json.is_file() else {}
    report |= {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("dskd-components", "torch", "safetensors")},
        "bytes a state": {
            width: {name: bytes_per_state(width, name) for name in FORMATS} for width in (576, 4096, 8192)
        },
    }
    with TemporaryDirectory() as place:
        folder = Path(place)
        measures: dict[str, Callable[[], Any]] = {
            "steps": lambda: steps(prepared, options, folder / "timed"),
            "opening": lambda: opening(prepared, options, folder),
            "learning": lambda: dict(learning(prepared, settings, folder)),
        }
        for part in options.parts:
            load = os.getloadavg()[0]
            report[part] = {"load when it began": load} | measures[part]()
            if options.json:
                options.json.write_text(json.dumps(report, indent=2) + "\n")
    _print(report)


def _print(report: dict[str, Any]) -> None:
    console = Console()
    if "steps" in report:
        table = Table("a step of 8 texts", "seconds", "beside states in memory", "own time")
        for name, one in report["steps"]["ways"].items():
            ratio = f"{one['ratio']:.2f} ({one['from']:.2f} to {one['to']:.2f})"
            table.add_row(name, f"{one['seconds']:.3f}", ratio, f"{one['own time']:.2f}")
        console.print(table)
        console.print(f"int8: {report['steps']['int8 bytes a unit, all included']:.3f} bytes a unit, all included")
    if "opening" in report:
        console.print(f"opening: {report['opening']}")
    if "learning" in report:
        table = Table("learned from", "held out, nats a byte, by seed", "loss off by, at most")
        for name in (LIVE, *FORMATS):
            students = report["learning"][name]["students"]
            scores = ", ".join(f"{student['held out, nats a byte']:.4f}" for student in students)
            table.add_row(name, scores, f"{max(student['loss off by, relative'] for student in students):.1e}")
        console.print(table)


if __name__ == "__main__":
    main()
