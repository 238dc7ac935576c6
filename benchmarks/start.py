"""How training would start between real models; ``python -m benchmarks.start FOLDER FOLDER ...``.

Each folder holds a causal model of Hugging Face with its tokenizer. Every two of them are looked at in both directions,
on the texts that preflight brings along: the choices that it measures, and beside them projectors whose random weights
are as `torch.nn.Linear` draws them, and calibrated multi-layer ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

from dskd_components import DSKDLoss, DSKDSpec, DualTokenizerCollator
from dskd_components.preflight import SAMPLE_TEXTS, Pair
from dskd_components.preflight.report import START_HEADERS, start_cells
from dskd_components.preflight.start import measure_starts
from dskd_components.projectors import MLP, Linear

if TYPE_CHECKING:
    from torch import Tensor

    from dskd_components.components.projector import Projector
    from dskd_components.preflight import Start

TEXTS = 4
BESIDE: dict[str, Projector] = {
    "linear, as torch": Linear(init="torch"),
    "mlp": MLP(),
    "mlp, as torch": MLP(init="torch"),
}


def starts_of(student: Path, teacher: Path) -> dict[str, Start]:
    """Measure one pair in one direction; by what was measured."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    models = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for folder in (student, teacher)]
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (student, teacher)]
    texts = list(SAMPLE_TEXTS[:TEXTS])
    pair = Pair(
        student=models[0],
        teacher=models[1],
        student_tokenizer=tokenizers[0],
        teacher_tokenizer=tokenizers[1],
        samples=texts,
    )

    def collate(spec: DSKDSpec) -> dict[str, Tensor]:
        return DualTokenizerCollator(*tokenizers, aligner=spec.aligner)([{"text": text} for text in texts])

    aligners = ("identity",) if pair.one_tokenizer else ("exact_match", "span", "cma")
    specs = {
        f"{aligner} with {name}": DSKDSpec(aligner=aligner, t2s_projector=projector, s2t_projector=projector)
        for aligner in aligners
        for name, projector in BESIDE.items()
    }
    torch.manual_seed(0)
    found = measure_starts(DSKDLoss, pair, collate, list(specs.values()))
    return dict(zip(specs, found, strict=False)) | {
        f"{start.aligner} with {start.t2s_projector}": start for start in found[len(specs) :]
    }


def main() -> None:
    """Measure, print a table, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    results: dict[str, Any] = {}
    for student, teacher in itertools.permutations(options.folders, 2):
        begin = time.perf_counter()
        found = starts_of(student, teacher)
        table = Table(f"{student.name} <- {teacher.name}", *START_HEADERS)
        for name, start in found.items():
            table.add_row(name, *start_cells(start)[1:-1], style="bold" if start.recommended else "")
        Console().print(table, f"{time.perf_counter() - begin:.0f} s")
        results[f"{student.name} <- {teacher.name}"] = {name: asdict(start) for name, start in found.items()}
    if options.json:
        versions = {name: version(name) for name in ("dskd-components", "torch", "transformers")}
        machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
        options.json.write_text(
            json.dumps({"machine": machine, "versions": versions, "results": results}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
