"""The learning rates of the demo's students, tried on texts on which nothing is compared.

    python -m examples.two_tokenizers.tuning

Every candidate is trained at every rate, from the demo's student and with texts of a seed that the demo does not have,
and measured on the dev texts. The best rates of the demo's arms stand in `Settings`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

import torch
from rich.console import Console
from rich.table import Table

from dskd_components import DSKDSpec
from examples.distil_two_tokenizers import SPECS, pretrain_student, start_student, train_teacher
from examples.two_tokenizers.measuring import measure
from examples.two_tokenizers.preparation import prepare
from examples.two_tokenizers.progress import phases, with_bar
from examples.two_tokenizers.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.progress import Progress

RATES: Final = (1e-3, 2e-3, 4e-3, 8e-3)
SEED: Final = 11
"""Not one of the demo's."""

FROM_HEADS: Final = DSKDSpec(
    aligner="exact_match", spaces=["student", "teacher"], t2s_projector="pinv", s2t_projector="live_pinv"
)

CANDIDATES: Final[Mapping[str, DSKDSpec | None]] = {
    "ce": None,
    "dskd-cma": SPECS["dskd-cma"],
    "recommended": SPECS["recommended"],
    "preset": DSKDSpec.preset("recommended-two-vocabularies"),
    "both spaces": FROM_HEADS,
    "with teacher space": SPECS["recommended"].replace(
        spaces=["teacher", *SPECS["recommended"].spaces], s2t_projector="live_pinv"
    ),
}
"""The demo's arms; the preset, which has another temperature and rate; and two that use the dual space with projectors
that start from the heads: it alone, with exact pairs, and its teacher's half beside what is recommended."""


def tried(
    settings: Settings, progress: Progress, *, rates: Sequence[float] = RATES
) -> Iterator[tuple[str, float, float]]:
    """Yield candidate, learning rate, and the loss on the dev texts in nats per byte.

    Args:
        settings: the demo's; its rates of students and its seeds are not used.
        progress: where the bars are.
        rates: which are tried.
    """
    prepared = prepare(settings)
    teacher, _ = train_teacher(prepared, settings, progress)
    start, _ = pretrain_student(prepared, settings, progress)
    for name, spec in CANDIDATES.items():
        for rate in rates:
            student, _, batches, loop = start_student(spec, rate, SEED, start, teacher, prepared, settings)
            for _ in with_bar(progress, f"{name}, {rate:g}", loop, len(batches)):
                pass
            yield name, rate, measure(student, prepared.dev, "student").nats_per_byte


def main(arguments: Sequence[str] | None = None) -> None:
    """Try all rates, print each result as it comes and the table at the end.

    Args:
        arguments: of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(prog="python -m examples.two_tokenizers.tuning", description="Tune the demo.")
    parser.add_argument("--quick", action="store_true", help="tiny models, to see that it works")
    settings = Settings.quick() if parser.parse_args(arguments).quick else Settings()
    torch.set_num_threads(settings.threads)
    console = Console()
    found: dict[str, dict[float, float]] = {}
    with phases(console) as progress:
        for name, rate, loss in tried(settings, progress):
            found.setdefault(name, {})[rate] = loss
            progress.console.print(f"{name} at {rate:g}: {loss:.4f} nats per byte")
    table = Table(title=f"Dev texts, nats per byte, seed {SEED}")
    for heading in ("learning rate", *(f"{rate:g}" for rate in RATES), "best"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, losses in found.items():
        table.add_row(name, *(f"{loss:.4f}" for loss in losses.values()), f"{min(losses, key=losses.__getitem__):g}")
    console.print(table)


if __name__ == "__main__":
    main()
