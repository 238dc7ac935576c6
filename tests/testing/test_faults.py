"""The kit catches faults: each one by the law that is meant to. And it flags nothing that is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from dskd_components.testing import laws_about
from dskd_components.testing.checks import kind_of
from dskd_components.testing.trial import result_of
from tests.helpers.correct_components import CORRECT
from tests.helpers.fault_table import FAULTS, laws_that_fail
from tests.helpers.registered import by_claims

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.helpers.fault import Fault

SEEDS = (None, 1, 2, 3, 4)
KINDS = ("distance", "aligner", "projector", "space", "schedule")


@pytest.fixture(autouse=True)
def _first_failure() -> Iterator[None]:
    """Which law fails is all that is asked here, not how small a case shows it."""
    before = settings.get_current_profile_name()
    settings.load_profile("mutation")
    yield
    settings.load_profile(before)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.what} ({fault.law})")
def test_a_fault_is_caught_by_the_law_meant_for_it(fault: Fault) -> None:
    [law] = [law for law in laws_about(kind_of(fault.faulty)) if law.name == fault.law]
    # Hypothesis takes numbers from whatever modules are loaded, so one seed is not the same in every run.
    results = (result_of(law, fault.faulty, seed=seed) for seed in SEEDS)
    result = next((result for result in results if result.outcome == "failed"), None)
    assert result is not None, f"{fault.what}: passed with the seeds {SEEDS}"
    assert fault.law in result.message.splitlines()[0]


def test_every_law_catches_a_fault() -> None:
    """A law that catches nothing here is not known to catch anything."""
    caught = {(kind_of(fault.faulty), fault.law) for fault in FAULTS}
    of_components = {law for kind, law in caught}
    idle = [
        f"{kind}: {law.name}"
        for kind in KINDS
        for law in laws_about(kind)
        if (kind, law.name) not in caught and not (law.kind == "component" and law.name in of_components)
    ]
    assert idle == []


@pytest.mark.parametrize("component", [component for kind in KINDS for component in by_claims(kind)[0]], ids=str)
def test_nothing_right_is_flagged_on_other_cases(component: object) -> None:
    for law in laws_about(kind_of(component)):
        result = result_of(law, component, max_examples=6, seed=20261124)
        assert result.outcome != "failed", result.message


@pytest.mark.parametrize(
    "component", CORRECT, ids=lambda component: getattr(component, "__name__", None) or component.name
)
def test_nothing_right_is_rejected(component: object) -> None:
    assert list(laws_that_fail(component, max_examples=3)) == []
