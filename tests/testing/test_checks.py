"""Reports of checks: what they say, how they are repeated, and what becomes of plugins that cannot be checked."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from pydantic import Field

from dskd_components import Distance, PluginError
from dskd_components.aligners import Identity
from dskd_components.components.loading import Origin
from dskd_components.components.registry import BrokenPlugin, ComponentInfo, Registry
from dskd_components.distances import JS, KL
from dskd_components.testing import (
    CheckReport,
    Law,
    LawResult,
    LawViolationError,
    check_aligner,
    check_classes,
    check_component,
    check_distance,
    check_plugin,
    check_projector,
    check_schedule,
    check_space,
    laws_about,
    laws_of,
    require_law,
    variants,
)
from dskd_components.testing.expectation import expect_close
from tests.helpers.faulty_distances import TemperatureInside, nan_at_equality

if TYPE_CHECKING:
    from torch import Tensor

checking_plugin = sys.modules[check_plugin.__module__]


def test_a_report_says_what_holds_what_failed_and_what_is_not_claimed() -> None:
    report = check_distance(nan_at_equality, max_examples=10)
    assert not report.passed
    assert {result.outcome for result in report.results} == {"passed", "failed", "not claimed"}
    [first, second] = str(report).splitlines()[:2]
    assert first.startswith("distance nan_at_equality: ")
    assert "not claimed: symmetric" in first
    assert second.startswith("  ")
    with pytest.raises(AssertionError, match="zero_at_equality"):
        report.raise_if_failed()


def test_a_failure_names_law_claim_values_and_what_to_call() -> None:
    [failure] = [f for f in check_distance(nan_at_equality).failures if f.law == "zero_at_equality"]
    assert failure.claim == "The distance of a distribution from itself is 0."
    assert failure.message.splitlines() == [
        f"distance nan_at_equality breaks the law 'zero_at_equality': {failure.claim}",
        "the distance of a row from itself: expected 0, found nan at [0].",
        "The smallest case found:",
        "  logits = [[0, 0]]",
        "  dtype = torch.float64",
        "To repeat it: check_distance(..., max_examples=50) tries the same cases each time.",
    ]


def test_checks_repeat_themselves_and_a_seed_gives_other_cases() -> None:
    seen: list[list[Tensor]] = [[], [], [], []]

    def recording(cases: list[Tensor]) -> Any:
        def distance(student: Tensor, teacher: Tensor) -> Tensor:
            cases.append(student.detach())
            return KL()(student, teacher)

        return distance

    for cases, seed in zip(seen, (None, None, 1, 1), strict=True):
        check_distance(recording(cases), max_examples=5, seed=seed)
    same, again, other, other_again = ([case.tolist() for case in cases] for cases in seen)
    assert same == again
    assert other == other_again
    assert same != other


def test_the_random_number_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check_component(JS(), max_examples=3)
    assert torch.equal(torch.rand(2), expected)


def test_one_cause_is_told_once() -> None:
    def broken(student: Tensor, teacher: Tensor) -> Tensor:
        raise ZeroDivisionError("no such thing")

    report = check_distance(broken, max_examples=2)
    [cause] = report.causes
    assert len(cause) == len(report.failures) > 10
    with pytest.raises(AssertionError) as caught:
        report.raise_if_failed()
    assert str(caught.value).count("no such thing") == 1
    assert f"The same is raised in {len(cause) - 1} more: " in str(caught.value)


def test_cases_that_are_always_tried_are_made_where_others_are() -> None:
    """``dskd check --device cuda`` chooses the device once the laws are imported."""
    seen: list[torch.device] = []

    def check(_: Any, rows: Tensor) -> None:
        """All rows are somewhere."""
        seen.append(rows.device)

    rows = st.builds(lambda: {"rows": torch.zeros(2)})
    tried = Law(
        kind="distance",
        check=check,
        cases=lambda _: rows,
        claimed_by=lambda _: True,
        at_most=1,
        always=({"rows": torch.zeros(1, device="cpu")},),
    )
    with torch.device("meta"):
        require_law(tried, KL())
    assert [device.type for device in seen] == ["meta", "meta"]


def test_a_failing_case_is_made_small_unless_the_profile_leaves_that_out() -> None:
    """As for tests of one's own, so that what only asks for laws that fail asks no longer than it must."""
    [law] = [law for law in laws_about("distance") if law.name == "non_negative"]

    def negative_when_wide(student: Tensor, teacher: Tensor) -> Tensor:
        sizes.append(student.shape[-1])
        return KL()(student, teacher) - (1.0 if student.shape[-1] > 2 else 0.0)

    found: list[list[int]] = []
    before = settings.get_current_profile_name()
    for profile in ("default", "mutation"):
        sizes: list[int] = []
        settings.load_profile(profile)
        try:
            with pytest.raises(LawViolationError):
                require_law(law, negative_when_wide)
        finally:
            settings.load_profile(before)
        found.append(sizes)
    shrunk, first = found
    assert min(size for size in shrunk if size > 2) == 3 == shrunk[-1]
    assert first == shrunk[: len(first)]
    assert len(first) < len(shrunk)


def test_numbers_are_told_apart() -> None:
    with pytest.raises(AssertionError, match=r"expected 0\.500001, found 0\.5 at"):
        expect_close(torch.tensor([0.5]).double(), torch.tensor([0.500001]).double(), "the distance")


def test_what_a_class_offers_is_tried() -> None:
    assert variants(Offering) == (Offering(weights=(1.0,)), Offering(weights=(1.0, 2.0)))
    results = list(check_classes([Offering], max_examples=2))
    assert {result.component for result in results} == {
        "offering(weights=(1.0,))",
        "offering(weights=(1.0, 2.0))",
    }


def test_what_a_component_raises_is_kept() -> None:
    def broken(student: Tensor, teacher: Tensor) -> Tensor:
        raise ZeroDivisionError("no such thing")

    [law] = [law for law in laws_about("distance") if law.name == "finite"]
    with pytest.raises(LawViolationError, match="raised ZeroDivisionError: no such thing") as caught:
        require_law(law, broken)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_laws_have_names_claims_and_reasons() -> None:
    for kind in ("distance", "aligner", "projector", "space", "schedule"):
        names = [law.name for law in laws_about(kind)]
        assert len(names) == len(set(names))
        for law in laws_about(kind):
            assert law.claim.endswith(".")
            assert law.reason.endswith(".")


def test_a_class_in_place_of_an_instance_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"got the class KL; write laws_of\(KL\(\)\)"):
        laws_of(KL)
    with pytest.raises(TypeError, match="at least one component"):
        laws_of()


CHECKS: dict[str, Any] = {
    "distance": check_distance,
    "aligner": check_aligner,
    "projector": check_projector,
    "space": check_space,
    "schedule": check_schedule,
}


@pytest.mark.parametrize("kind", CHECKS)
def test_what_is_not_of_the_kind_is_an_error_and_no_list_of_failures(kind: str) -> None:
    check = CHECKS[kind]
    for other in {"distance": KL(), "aligner": Identity()}.values():
        if other.kind != kind:
            with pytest.raises(TypeError, match=f"check_{kind}: expected .* {other.kind}, .*check_{other.kind}"):
                check(other)
    for given, message in (
        (Identity, r"got the class Identity; write check_\w+\(Identity\(\)\)"),
        ("kl", r"got 'kl'; .* get_distance\('kl'\)"),
        (None, "expected a component, or a function in the place of a distance, got None"),
    ):
        with pytest.raises(TypeError, match=message):
            check(given)
        with pytest.raises(TypeError, match=message.replace("check_\\w+", "laws_of")):
            laws_of(given)
    if kind != "distance":
        with pytest.raises(TypeError, match=f"check_{kind}: expected .* got a distance, <lambda>"):
            check(lambda student, teacher: student - teacher)


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "3", None])
def test_what_is_no_number_of_cases_is_an_error(number: Any) -> None:
    for tried in (
        check_distance,
        laws_of,
        lambda _, max_examples: list(check_classes([KL], max_examples=max_examples)),
    ):
        with pytest.raises(ValueError, match="max_examples: expected an integer, 1 or more, got "):
            tried(KL(), max_examples=number)


class Required(Distance):
    name: Literal["required"] = "required"
    power: Annotated[float, Field(ge=1, le=3)]
    flag: bool = False
    levels: Annotated[int, Field(ge=2)] | None = None

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        return KL()(student_log_probs, teacher_log_probs)


class NotUnderstood(Distance):
    name: Literal["not_understood"] = "not_understood"
    weights: tuple[float, ...]

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        return KL()(student_log_probs, teacher_log_probs)


class Offering(Distance):
    name: Literal["offering"] = "offering"
    weights: tuple[float, ...]

    @classmethod
    def examples(cls) -> tuple[Offering, ...]:
        return (cls(weights=(1.0,)), cls(weights=(1.0, 2.0)))

    def __call__(self, student_log_probs: Tensor, teacher_log_probs: Tensor) -> Tensor:
        return sum(self.weights) * KL()(student_log_probs, teacher_log_probs)


def test_variants_differ_in_one_option() -> None:
    found = [(made.power, made.flag, made.levels) for made in variants(Required)]  # type: ignore[attr-defined]
    assert found == [(1.5, False, None), (2.5, False, None), (1.5, True, None), (1.5, False, 3), (1.5, False, 4)]
    assert variants(NotUnderstood) == ()


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry that is filled by hand."""
    registry = Registry([])
    monkeypatch.setattr(checking_plugin, "default_registry", lambda: registry)
    return registry


def add(registry: Registry, component: type[Distance], distribution: str) -> None:
    origin = Origin("mine", distribution, "1.0")
    name = component.component_name()
    registry._found.setdefault(("distance", name), []).append(ComponentInfo("distance", name, component, origin))


def test_a_distribution_is_checked_by_whatever_spelling(registered: Registry) -> None:
    add(registered, KL, "My_Distances")
    report = check_plugin("my-distances", max_examples=2)
    assert report.passed
    assert {result.component for result in report.results} == {"kl"}


def test_a_faulty_component_fails(registered: Registry) -> None:
    add(registered, TemperatureInside, "mine")
    assert "refinement_invariance" in [failure.law for failure in check_plugin("mine").failures]


def test_a_component_that_cannot_be_made_fails(registered: Registry) -> None:
    add(registered, NotUnderstood, "mine")
    report = check_plugin("mine")
    assert [failure.law for failure in report.failures] == ["options_are_understood"]
    assert "weights" in str(report)


def test_a_broken_plugin_fails(registered: Registry) -> None:
    registered._broken.append(BrokenPlugin(Origin("mine", "mine", "1.0"), "it cannot be imported"))
    report = check_plugin("mine")
    assert [(failure.kind, failure.law) for failure in report.failures] == [("plugin", "the_plugin_loads")]
    assert "it cannot be imported" in str(report)


def test_a_name_taken_twice_fails_for_both(registered: Registry) -> None:
    class Other(KL):
        pass

    add(registered, KL, "mine")
    add(registered, Other, "theirs")
    for distribution, other in (("mine", "theirs"), ("theirs", "mine")):
        [failure] = check_plugin(distribution, max_examples=1).failures
        assert failure.law == "the_name_is_its_own"
        assert other in failure.message


def test_a_distribution_without_plugins_is_an_error(registered: Registry) -> None:
    add(registered, KL, "my-distances")
    with pytest.raises(PluginError, match=r"'my-distance' \(did you mean 'my-distances'\?\)"):
        check_plugin("my-distance")


def test_reports_are_plain_data() -> None:
    result = LawResult("distance", "kl", "finite", "Values are finite.", "passed")
    assert CheckReport((result,)) == CheckReport((result,))
    CheckReport(()).raise_if_failed()
