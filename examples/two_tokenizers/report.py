"""The closing table and the files in the output folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from rich.table import Table

from examples.two_tokenizers.figures import draw_alignment, draw_curves
from examples.two_tokenizers.recording import STUDENT_ARMS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from examples.two_tokenizers.attention import LearnedAlignment
    from examples.two_tokenizers.recording import Arm, Results

TITLES: Final[Mapping[Arm, str]] = {
    "teacher": "teacher",
    "pretrained": "student, before",
    "ce": "cross entropy alone",
    "dskd-cma": "dskd-cma, published",
    "recommended": "recommended",
}


def write_files(results: Results, alignment: LearnedAlignment, output: Path) -> list[Path]:
    """Write the results and both figures.

    Args:
        results: all runs.
        alignment: what the aligner says about one sentence.
        output: the folder; it is made if need be.

    Returns:
        The files.
    """
    output.mkdir(parents=True, exist_ok=True)
    files = [output / name for name in ("results.json", "curves.png", "alignment.png")]
    files[0].write_text(json.dumps(results.as_json(), indent=1) + "\n", encoding="utf-8")
    draw_curves(results, files[1])
    draw_alignment(alignment, files[2])
    return files


def closing_table(results: Results) -> Table:
    """Return the table of held-out results."""
    table = Table(
        title=f"Held-out text; students: mean ± standard deviation over {len(results.settings.seeds)} seeds",
        caption="Minus cross entropy: nats per byte, seed by seed; below zero: the teacher helped. Accuracy is by the "
        "model's own tokens: it compares the students. Loss per byte compares all rows.",
    )
    table.add_column("model", no_wrap=True)
    for heading in ("nats / byte", "minus cross entropy", "accuracy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for arm, measures in results.summary().items():
        runs = results.of(arm)
        differences = results.differences(arm) if arm in STUDENT_ARMS[1:] else []
        table.add_row(
            TITLES[arm],
            spread(measures["nats_per_byte"], len(runs)),
            " ".join(f"{difference:+.3f}" for difference in differences),
            spread(measures["accuracy"], len(runs), percent=True),
        )
    return table


def spread(values: Mapping[str, float], runs: int, *, percent: bool = False) -> str:
    """Return mean ± standard deviation as the table has it; the mean alone for a single run."""
    factor, digits, unit = (100.0, 1, " %") if percent else (1.0, 3, "")
    mean = f"{factor * values['mean']:.{digits}f}"
    return f"{mean}{unit}" if runs == 1 else f"{mean} ± {factor * values['sd']:.{digits}f}{unit}"
