"""What starting costs beside importing torch; ``python -m benchmarks.startup``.

Each contestant is a process of its own. Rounds of all contestants are interleaved, and processor time is counted, so
that a busy machine weighs on all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

BASELINE = "import torch"
COMMAND = "from dskd_components.cli import main; main({!r})"
CONTESTANTS = {
    BASELINE: BASELINE,
    "import dskd_components": "import dskd_components",
    "dskd --help": COMMAND.format(["--help"]),
    "dskd list": COMMAND.format(["list"]),
    "dskd show kl": COMMAND.format(["show", "kl"]),
    "dskd schema": COMMAND.format(["schema"]),
}


def seconds(program: str) -> float:
    """Processor time of a program, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure, print a table, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    rounds = [{name: seconds(program) for name, program in CONTESTANTS.items()} for _ in range(options.rounds)]
    table = Table("started", "processor seconds", "beside importing torch")
    results = {}
    for name in CONTESTANTS:
        median = statistics.median(found[name] for found in rounds)
        ratios = sorted(found[name] / found[BASELINE] for found in rounds)
        results[name] = {"seconds": median, "ratio": statistics.median(ratios), "from": ratios[0], "to": ratios[-1]}
        table.add_row(name, f"{median:.2f}", f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    Console().print(table)
    if options.json:
        versions = {name: version(name) for name in ("dskd-components", "torch", "pydantic", "typer", "rich")}
        machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
        options.json.write_text(
            json.dumps({"machine": machine, "versions": versions, "results": results}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
