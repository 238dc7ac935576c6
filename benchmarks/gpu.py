"""``python -m benchmarks.gpu``: a loss step on an accelerator, in one table, unattended and within minutes.

For each case: the time of a step over that of its bare matrix products in the precision of the inputs, the peak of
memory above inputs and gradients, and how many kernels and how many waits of the host a step takes. Beside the tiled
engine stand the eager one, the eager one compiled, and Liger's fused JSD, where they can do the work. For one case of
each method: how far loss and gradients are from those of float32 products of the same inputs.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks.loss_step import contestants, report
from benchmarks.loss_step.case import Case
from dskd_components.engines import Tiled

if TYPE_CHECKING:
    from collections.abc import Callable

    from dskd_components import LMStates

    Step = Callable[[], torch.Tensor]

ONE, TWO, LARGE = (32_000, 32_000), (50_257, 151_936), (128_256, 128_256)
ALL = ("tiled", "tiled compiled", "eager")
HALF = ("half gradients", "half gradients compiled")
LIGER = ("Liger", "Liger compiled")
LAST = ("eager compiled", "Liger compiled")
"""Whose compilation can take a minute each: they are measured when all else is."""

CASES: tuple[tuple[Case, tuple[str, ...]], ...] = (
    (Case("dskd", 256, ONE), ALL),
    (Case("dskd", 2048, ONE), ALL),
    (Case("dskd", 2048, ONE, dtype=torch.bfloat16), (*ALL, *HALF, "eager compiled")),
    (Case("dskd", 2048, ONE, scored=0.5, dtype=torch.bfloat16), ALL),
    (Case("dskd-cma", 2048, TWO, dtype=torch.bfloat16), (*ALL, *HALF)),
    (Case("js", 2048, ONE, dtype=torch.bfloat16), (*ALL, *HALF, *LIGER)),
    (
        Case("js", 8192, LARGE, dtype=torch.bfloat16, widths=(4096, 4096)),
        ("tiled", "tiled compiled", *HALF, *LIGER),
    ),
    (
        Case("js", 8192, LARGE, dtype=torch.bfloat16, widths=(4096, 4096), budget=4096),
        ("tiled", "tiled compiled"),
    ),
)


def bare_products(case: Case, student: LMStates, teacher: LMStates) -> Step:
    """The matrix products that the method cannot do without, made from operands of the inputs' precision."""
    weights = [side.head.weight.detach() for side in (student, teacher)]
    rows = [side.hidden_states.detach()[side.scored] for side in (student, teacher)]
    gradients = [
        torch.randn(len(states), len(weight), dtype=weight.dtype, device=weight.device)  # zeros would take less power
        for states, weight in zip(rows, weights, strict=True)
    ]
    projected = 0 if case.method in contestants.DIRECT else 1

    def step() -> torch.Tensor:
        for _ in range(1 + projected):
            rows[0] @ weights[0].T
            gradients[0] @ weights[0]
            rows[1] @ weights[1].T
        found = gradients[0].T @ rows[0]
        if projected:
            gradients[1] @ weights[1]
        return found[0, 0]

    return step


def accuracy(case: Case) -> dict[str, Any]:
    """Return how far loss and gradients are from those that float32 products of the same inputs give, each way."""
    exact = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    found: dict[str, tuple[torch.Tensor, dict[str, torch.Tensor]]] = {}
    try:
        for products in ("torch", "fastest", "half_gradients"):
            student, teacher = case.states()
            loss_fn = case.loss("tiled")
            options = {**loss_fn.spec.engine.model_dump(), "products": products}
            loss_fn.spec = loss_fn.spec.replace(engine=options)
            loss = loss_fn(student, teacher).loss
            loss.backward()
            gradients = {"states": student.hidden_states.grad, "head": student.head.weight.grad}
            gradients |= {name: parameter.grad for name, parameter in loss_fn.named_parameters()}
            found[products] = (
                loss.detach().double(),
                {name: gradient for name, gradient in gradients.items() if gradient is not None},
            )
    finally:
        torch.backends.cuda.matmul.allow_tf32 = exact
    expected, of_expected = found.pop("torch")
    return {
        products: {
            "loss": float((loss - expected).abs() / expected.abs()),
            "gradients": {
                name: float((gradient.float() - of_expected[name].float()).norm() / of_expected[name].float().norm())
                for name, gradient in gradients.items()
            },
        }
        for products, (loss, gradients) in found.items()
    }


def print_kernels(step: Step, title: str, most: int = 25) -> None:
    """Print which kernels of a step take the device's time."""
    step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        step()
        torch.cuda.synchronize()
    times: dict[str, list[float]] = {}
    for event in trace.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            times.setdefault(event.name, []).append(event.time_range.elapsed_us() / 1000)
    total = sum(map(sum, times.values()))
    table = Table(title=f"{title}: {total:.2f} ms on the device in {sum(map(len, times.values()))} kernels")
    for heading in ("ms", "share", "times", "kernel"):
        table.add_column(heading, overflow="fold")
    for name, taken in sorted(times.items(), key=lambda entry: -sum(entry[1]))[:most]:
        table.add_row(f"{sum(taken):.3f}", f"{sum(taken) / max(total, 1e-9):.1%}", str(len(taken)), name[:150])
    Console(width=200).print(table)


def contestant(name: str, case: Case, student: LMStates, teacher: LMStates) -> Step:
    """A step of one of those that are compared."""
    if name.startswith("Liger"):
        return contestants.liger(student, teacher, compiled=name.endswith("compiled"))
    loss_fn = case.loss(name)
    if name == "eager compiled":
        loss_fn.compile()
    return contestants.library(case, name, student, teacher, loss=loss_fn)


def milliseconds(step: Step, rounds: int) -> list[float]:
    """Time a step between events of the device, several times."""
    found = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end))
    return found


def peak_mib(step: Step, student: LMStates) -> float:
    """Return the most that a step takes above what is there before it and the gradients that it leaves."""
    step()
    kept = sum(leaf.nbytes for leaf in (student.hidden_states, student.head.weight))
    contestants.forget_gradients(student, None)
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before - kept) / 2**20


def waits(step: Step) -> int:
    """Count how often the host waits for the device in a step."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def kernels(step: Step) -> int:
    """Count what a step starts on the device, copies included."""
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        step()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in trace.events())


def measure(case: Case, names: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """Measure all contestants of a case."""
    student, teacher = case.states()
    bare = bare_products(case, student, teacher)
    bare()
    row: dict[str, Any] = {"case": case.label, "widths": case.widths, "contestants": {}}
    for name in names:
        if name.startswith("Liger") and find_spec("liger_kernel") is None:
            continue
        try:
            step = contestant(name, case, student, teacher)
            start = time.perf_counter()
            step()
            torch.cuda.synchronize()
            first = time.perf_counter() - start
            step()
            times = milliseconds(step, rounds)
            reference = milliseconds(bare, rounds)
            row["contestants"][name] = {
                "milliseconds": round(statistics.median(times), 3),
                "over_bare": round(statistics.median(times) / statistics.median(reference), 3),
                "range": [round(min(times), 3), round(max(times), 3)],
                "peak_mib": round(peak_mib(step, student)),
                "kernels": kernels(step),
                "waits": waits(step),
                "first_step_seconds": round(first, 1),
            }
            row["bare_milliseconds"] = round(statistics.median(reference), 3)
        except (
            RuntimeError,
            ValueError,
            TypeError,
            ImportError,
            AttributeError,
        ) as error:  # a contestant that cannot do the work is a row, too
            row["contestants"][name] = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        step = None  # type: ignore[assignment]
        contestants.forget_gradients(student, None)
        gc.collect()
        torch.cuda.empty_cache()
    return row


def print_table(results: dict[str, Any]) -> None:
    """Print a line for each case and contestant."""
    table = Table(title=f"A loss step on {results['machine']['gpu']}")
    for heading in ("case", "contestant", "ms", "over bare", "peak MiB", "kernels", "waits"):
        table.add_column(heading)
    for row in results["rows"]:
        for name, found in row.get("contestants", {}).items():
            if "failed" in found:
                table.add_row(row["case"], name, found["failed"])
                continue
            table.add_row(
                row["case"],
                name,
                f"{found['milliseconds']:.2f}",
                f"{found['over_bare']:.2f}",
                str(found["peak_mib"]),
                str(found["kernels"]),
                str(found["waits"]),
            )
    Console(width=160).print(table)


def add_compiled(
    rows: list[dict[str, Any]], cases: list[tuple[Case, tuple[str, ...]]], rounds: int, write: Callable[[], None]
) -> None:
    """Measure those that come last."""
    for row, (case, names) in zip(rows, cases, strict=True):
        compiled = tuple(name for name in names if name in LAST)
        if compiled:
            row["contestants"] |= measure(case, compiled, rounds)["contestants"]
            write()


def main() -> None:
    """Measure, print the table, and write JSON as the rows come."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the numbers there")
    parser.add_argument("--case", default="", metavar="SUBSTRING", help="only cases whose label has this in it")
    parser.add_argument("--no-peers", action="store_true", help="the tiled engine alone")
    parser.add_argument("--accuracy", action="store_true", help="only the accuracy, without times")
    parser.add_argument(
        "--profile",
        nargs="?",
        const="tiled",
        metavar="CONTESTANT",
        help="only print the most expensive kernels of a step",
    )
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu: expected a CUDA device, and PyTorch finds none.")
    machine = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda, **report.machine()}
    results: dict[str, Any] = {"benchmark": "gpu", "machine": machine, "rounds": options.rounds, "rows": []}
    cases = [
        (Case(**{**vars(case), "device": "cuda"}), ("tiled",) if options.no_peers else names)
        for case, names in CASES
        if options.case in case.label
    ]
    if not cases:
        raise SystemExit(
            f"--case {options.case!r}: expected a part of one of\n" + "\n".join(case.label for case, _ in CASES)
        )
    if options.profile:
        for case, _ in cases:
            student, teacher = case.states()
            print_kernels(contestant(options.profile, case, student, teacher), f"{case.label}, {options.profile}")
        return

    def write() -> None:
        results["kernels"] = Tiled().kernels()
        if options.json:
            options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")

    methods: set[str] = set()
    for case, names in track(cases, description="cases", console=Console(stderr=True)):
        plain = tuple(name for name in names if name not in LAST)
        row = {"case": case.label} if options.accuracy else measure(case, plain, options.rounds)
        # The largest case takes more memory in float32 products than it tells.
        if case.dtype == torch.bfloat16 and case.vocabularies != LARGE and case.method not in methods:
            methods.add(case.method)
            row["accuracy"] = accuracy(case)
            Console(stderr=True, width=160).print(case.label, row["accuracy"])
        results["rows"].append(row)
        write()
    if not options.accuracy:
        add_compiled(results["rows"], cases, options.rounds, write)
    print_table(results)


if __name__ == "__main__":
    main()
