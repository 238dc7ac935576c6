"""Laws of schedules. Each takes a `Schedule`, and steps at which it is asked for its number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import yaml
from hypothesis import strategies as st

from dskd_components.components.schedule import Schedule, final_step_of, is_weight, range_of
from dskd_components.errors import PluginError
from dskd_components.spec.documents import read_yaml
from dskd_components.testing.expectation import expect
from dskd_components.testing.law import law
from dskd_components.testing.laws.component import expect_effects, one_case

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "a_spec_file_restores_it",
    "from_the_final_step_on_nothing_changes",
    "it_keeps_to_the_range_of_its_turning_points",
    "numbers_are_finite_and_not_negative",
    "options_have_an_effect",
    "the_same_step_gives_the_same_number",
]

LOOKED_AT: Final = 64
"""Steps at which two schedules are compared, from the first to beyond the last."""


def step_cases(schedule: Schedule) -> st.SearchStrategy[Mapping[str, Any]]:
    """The first step, one half-way, the last one and one far beyond it, and others in any order."""
    last = _last_step(schedule)
    marked = [0, 1, last // 2, max(0, last - 1), last, last + 1, 10 * last + 1000]
    drawn = st.lists(st.integers(0, 2 * last + 10), max_size=6)
    return st.fixed_dictionaries({"steps": st.builds(lambda steps: [*marked, *steps], drawn)})


def _last_step(schedule: Schedule) -> int:
    try:
        return final_step_of(schedule)
    except PluginError:  # which is for a law to say
        return 100


@law("schedule", cases=step_cases)
def numbers_are_finite_and_not_negative(schedule: Schedule, steps: Sequence[int]) -> None:
    """At every step there is a plain number, finite and not negative.

    It weights a term of the loss: NaN would end the run, and a negative weight teaches the opposite.
    """
    for step in steps:
        number = schedule.at(step)
        expect(
            is_weight(number),
            f"the number at step {step}: expected a finite float that is not negative, found {number!r}.",
        )


@law("schedule", cases=step_cases)
def it_keeps_to_the_range_of_its_turning_points(schedule: Schedule, steps: Sequence[int]) -> None:
    """No number lies outside of the range that ``turning_points`` name.

    By them a spec refuses a ``kd_rate`` above 1 when it is made, and not in the middle of a run.
    """
    lowest, highest = _asked(lambda: range_of(schedule))
    for step in steps:
        number, slack = schedule.at(step), 1e-9
        expect(
            lowest * (1 - slack) <= number <= highest * (1 + slack),
            f"the number at step {step}: expected one from {lowest:g} to {highest:g}, found {number:g}.",
        )


@law("schedule", cases=step_cases)
def from_the_final_step_on_nothing_changes(schedule: Schedule, steps: Sequence[int]) -> None:
    """From ``final_step`` on, an integer, the number stays as it is.

    Evaluations are made by the weights of that step, so that they can be compared with one another.
    """
    last = _asked(lambda: final_step_of(schedule))
    for step in steps:
        found, settled = schedule.at(last + step), schedule.at(last)
        expect(
            found == settled, f"the number at step {last + step}: expected {settled:g} as at {last}, found {found:g}."
        )


@law("schedule", cases=step_cases)
def the_same_step_gives_the_same_number(schedule: Schedule, steps: Sequence[int]) -> None:
    """A step has one number, whatever was asked before and whoever asks.

    The loss counts nothing: micro-batches of a step, ranks and resumed runs ask on their own.
    """
    first = {step: schedule.at(step) for step in steps}
    again = type(schedule).model_validate(schedule.model_dump())
    for step in reversed(steps):
        for found, where in ((schedule.at(step), "asked again"), (again.at(step), "of an equal schedule")):
            expect(
                found == first[step], f"the number at step {step}, {where}: expected {first[step]:g}, found {found:g}."
            )


@law("schedule", cases=one_case, at_most=1)
def options_have_an_effect(schedule: Schedule) -> None:
    """Another value of an option gives another number at some step, or another last step.

    An option that does nothing has been forgotten, or lost on the way.
    """

    def observed(other: Schedule) -> list[Any]:
        last = _last_step(other) + 1
        # Single steps where there are few, evenly spaced ones where there are many.
        steps = sorted(
            {*range(min(last, LOOKED_AT) + 1), *(last * place // LOOKED_AT for place in range(LOOKED_AT + 1))}
        )
        return [last, *((step, other.at(step)) for step in steps)]

    expect_effects(schedule, observed)


@law("schedule", cases=step_cases, at_most=5)
def a_spec_file_restores_it(schedule: Schedule, steps: Sequence[int]) -> None:
    """A schedule that is written to a YAML file and read from it is equal, in hash as well, and has the same numbers.

    Specs are kept in files beside the checkpoints, and frozen ones are keys of dictionaries.
    """
    text = yaml.safe_dump(schedule.model_dump(mode="json"))
    again = type(schedule).model_validate(read_yaml(text).value)
    expect(again == schedule, f"expected {schedule!r} back from {text!r}, found {again!r}.")
    expect(hash(again) == hash(schedule), f"expected equal schedules to have one hash, found two for {schedule!r}.")
    for step in steps:
        found, expected = again.at(step), schedule.at(step)
        expect(found == expected, f"the number at step {step}: expected {expected:g}, found {found:g}.")


def _asked(ask: Any) -> Any:
    """Return what a schedule says of itself; what is no such thing breaks the law."""
    try:
        return ask()
    except PluginError as error:
        raise AssertionError(str(error)) from error.__cause__
