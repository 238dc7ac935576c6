"""The kit's own score: how many faults a whole check catches, and how many right components it leaves alone.

``python -m tests.helpers.fault_table`` prints it, on as many cases as an author tries. Faults are checked as an author
would check them, by every law that they claim, whichever law is meant to catch them.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from dskd_components.testing import laws_about
from dskd_components.testing.checks import kind_of
from dskd_components.testing.trial import component_label, result_of
from tests.helpers.correct_components import CORRECT
from tests.helpers.faulty_aligners import ALIGNER_FAULTS
from tests.helpers.faulty_distances import DISTANCE_FAULTS
from tests.helpers.faulty_modules import MODULE_FAULTS
from tests.helpers.faulty_projectors import PROJECTOR_FAULTS
from tests.helpers.faulty_schedules import SCHEDULE_FAULTS
from tests.helpers.faulty_spaces import SPACE_FAULTS
from tests.helpers.faulty_text_aligners import TEXT_ALIGNER_FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.helpers.fault import Fault

KINDS = ("distance", "aligner", "projector", "space", "schedule")
FAULTS: list[Fault] = [
    *DISTANCE_FAULTS,
    *ALIGNER_FAULTS,
    *TEXT_ALIGNER_FAULTS,
    *PROJECTOR_FAULTS,
    *SPACE_FAULTS,
    *SCHEDULE_FAULTS,
    *MODULE_FAULTS,
]


def laws_that_fail(component: Any, *, max_examples: int, seed: int | None = None) -> Iterable[str]:
    """Yield the names of the laws that a component claims and breaks."""
    for law in laws_about(kind_of(component)):
        if result_of(law, component, max_examples=max_examples, seed=seed).outcome == "failed":
            yield law.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-examples", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    console = Console()
    table = Table("kind", "faults", "caught", "right ones", "rejected")
    missed: list[str] = []
    for kind in KINDS:
        faults = [fault for fault in FAULTS if kind_of(fault.faulty) == kind]
        right = [component for component in CORRECT if kind_of(component) == kind]
        settings = {"max_examples": options.max_examples, "seed": options.seed}
        caught = [any(laws_that_fail(fault.faulty, **settings)) for fault in track(faults, kind, transient=True)]
        missed += [f"{kind}: {fault.what}" for fault, found in zip(faults, caught, strict=True) if not found]
        flagged = [(one, list(laws_that_fail(one, **settings))) for one in track(right, kind, transient=True)]
        missed += [f"{kind} {component_label(one)} is rejected by {', '.join(laws)}" for one, laws in flagged if laws]
        rejected = sum(bool(laws) for _, laws in flagged)
        table.add_row(kind, *map(str, (len(faults), sum(caught), len(right), rejected)))
    console.print(table)
    for line in missed:
        console.print(line)


if __name__ == "__main__":
    main()
