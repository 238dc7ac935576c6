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
    "ce": "student, ce alone",
    "dskd-cma": "student, dskd-cma",
    "dskd-exact-match": "student, exact match",
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
        caption="Loss per token and next-token accuracy are by the model's own tokens: they compare the students. "
        "Loss per byte compares all rows.",
    )
    table.add_column("model")
    for heading in ("steps", "nats / token", "nats / byte", "accuracy"):
        table.add_column(heading, justify="right")
    for arm, measures in results.summary().items():
        runs = results.of(arm)
        table.add_row(
            TITLES[arm],
            str(runs[0].held_out[-1][0]),
            spread(measures["nats_per_token"], len(runs)),
            spread(measures["nats_per_byte"], len(runs)),
            spread(measures["accuracy"], len(runs), percent=True),
        )
    return table


def spread(values: Mapping[str, float], runs: int, *, percent: bool = False) -> str:
    """Return mean ± standard deviation as the table has it; the mean alone for a single run."""
    factor, digits, unit = (100.0, 1, " %") if percent else (1.0, 3, "")
    mean = f"{factor * values['mean']:.{digits}f}"
    return f"{mean}{unit}" if runs == 1 else f"{mean} ± {factor * values['sd']:.{digits}f}{unit}"


def paired_differences(results: Results) -> str:
    """Return how the arms differ within each seed, where weights and batches were the same."""
    lines = ["Minus cross entropy alone, nats per byte, seed by seed (below zero: distillation helped):"]
    for arm in STUDENT_ARMS[1:]:
        pairs = zip(results.of("ce"), results.of(arm), strict=True)
        differences = [distilled.score.nats_per_byte - alone.score.nats_per_byte for alone, distilled in pairs]
        lines.append(f"  {arm}: {', '.join(f'{difference:+.4f}' for difference in differences)}")
    return "\n".join(lines)
