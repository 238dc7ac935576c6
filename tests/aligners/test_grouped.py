"""Alignments by groups, position by position beside a naive reading of the same groups."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dskd_components import InputError, LMStates, TokenGroups, get_aligner
from dskd_components.aligners.grouped import GroupedAlignment
from tests.helpers.strategies import SEEDS, Batch, make_batch


@dataclass(frozen=True)
class Choice:
    """An aligner with options, and what they mean."""

    name: str
    one_to_one: bool
    last: bool
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, batch: Batch) -> GroupedAlignment:
        module = get_aligner(self.name, **dict(self.options)).build(student_embedding_size=5, teacher_embedding_size=7)
        found = module(batch.student, batch.teacher, batch.groups)
        assert isinstance(found, GroupedAlignment)
        return found


CHOICES = (
    Choice("exact_match", one_to_one=True, last=False),
    Choice("min_edit", one_to_one=True, last=False),
    Choice("min_edit", one_to_one=False, last=False, options=(("many_to_one", "pool"),)),
    Choice("min_edit", one_to_one=False, last=True, options=(("many_to_one", "pool"), ("pooling", "last"))),
    Choice("span", one_to_one=False, last=False),
    Choice("span", one_to_one=False, last=True, options=(("pooling", "last"),)),
)


def naive_members(batch: Batch, row: int, group: int) -> tuple[list[int], list[int]]:
    """The scored positions of a group on both sides."""
    sides = ((batch.groups.student, batch.student), (batch.groups.teacher, batch.teacher))
    ours, theirs = (
        [t for t, number in enumerate(groups[row].tolist()) if number == group and states.scored[row, t]]
        for groups, states in sides
    )
    return ours, theirs


def naive(batch: Batch, choice: Choice, values: Tensor) -> tuple[Tensor, Tensor]:
    """What the teacher's values come to at the student's positions, and the first position that they come from."""
    brought = values.new_zeros(*batch.student.targets.shape, values.shape[-1])
    index = torch.full_like(batch.student.targets, -1)
    for row, groups in enumerate(batch.groups.student.tolist()):
        for group in set(groups) - {-1}:
            ours, theirs = naive_members(batch, row, group)
            if not ours or not theirs or (choice.one_to_one and (len(ours), len(theirs)) != (1, 1)):
                continue
            brought[row, ours] = values[row, theirs[-1]] if choice.last else values[row, theirs].mean(0)
            index[row, ours] = theirs[0]
    return brought, index


def exchanged(batch: Batch) -> Batch:
    return Batch(batch.teacher, batch.student, TokenGroups(batch.groups.teacher, batch.groups.student))


@given(seed=SEEDS, choice=st.sampled_from(CHOICES), groups=st.integers(1, 4))
def test_each_position_has_what_its_group_comes_to(seed: int, choice: Choice, groups: int) -> None:
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    batch = make_batch(seed, same_tokenizer=False)
    # Few numbers, some of them great: groups of many and of one, of one side alone, and the same number in each sample.
    numbers = torch.tensor([-1, 0, 1, 129, 2**32 - 1])
    drawn = [torch.randint(0, groups + 1, side.shape, generator=generator) for side in vars(batch.groups).values()]
    batch = replace(batch, groups=TokenGroups(*(numbers[side] for side in drawn)))
    found = choice(batch)
    for toward, direction in ((batch, found.to_student), (exchanged(batch), found.to_teacher)):
        values = torch.randn(*toward.teacher.targets.shape, 2, dtype=torch.float64, generator=generator)
        expected, index = naive(toward, choice, values)
        torch.testing.assert_close(direction(values), expected)
        covered = found.student_covered if toward is batch else found.teacher_covered
        assert torch.equal(covered, index >= 0)
    assert torch.equal(found.teacher_index(), naive(batch, choice, batch.teacher.hidden_states)[1])
    assert torch.equal(found.student_group < 0, found.student_group == -1)
    sides = (("student", found.student_covered, batch.student), ("teacher", found.teacher_covered, batch.teacher))
    for side, covered, states in sides:
        tally = found.metrics[f"{side}_coverage"]
        assert (tally.total, tally.count) == (covered.sum(), states.scored.sum())


def test_without_any_group_nothing_is_covered() -> None:
    batch = make_batch(0, same_tokenizer=False)
    nothing = TokenGroups(*(torch.full_like(side, -1) for side in vars(batch.groups).values()))
    found = CHOICES[0](replace(batch, groups=nothing))
    assert (found.student_group == -1).all()
    assert (found.teacher_group == -1).all()


@pytest.mark.parametrize("name", ["exact_match", "min_edit", "span"])
def test_groups_that_are_missing_are_asked_for_by_the_aligners_name(name: str) -> None:
    batch = make_batch(0, same_tokenizer=False)
    module = get_aligner(name).build(student_embedding_size=5, teacher_embedding_size=7)
    with pytest.raises(InputError, match=rf"alignment is missing: the aligner '{name}' reads it .* loss_fn"):
        module(batch.student, batch.teacher, None)


def only_scored(states: LMStates, *positions: int) -> LMStates:
    targets = torch.full_like(states.targets, -100)
    targets[:, positions] = states.targets[:, positions]
    return replace(states, targets=targets)


def test_with_one_tokenizer_positions_count_where_both_sides_score_them() -> None:
    batch = make_batch(0, same_tokenizer=True, at_least=6)
    module = get_aligner("identity").build(student_embedding_size=5, teacher_embedding_size=7)
    found = module(only_scored(batch.student, 0, 1, 3), only_scored(batch.teacher, 1, 2, 3), None)
    assert found.student_covered.any(0).nonzero().flatten().tolist() == [1, 3]
    assert torch.equal(found.teacher_covered, found.student_covered)


def test_with_one_tokenizer_the_first_difference_is_named() -> None:
    batch = make_batch(0, same_tokenizer=True, at_least=6)
    targets = batch.teacher.targets.clone()
    targets[1, 2:] = (targets[1, 2:] + 1) % 11
    module = get_aligner("identity").build(student_embedding_size=5, teacher_embedding_size=7)
    with pytest.raises(InputError, match=r"first at \[sample 1, position 2\]"):
        module(batch.student, replace(batch.teacher, targets=targets), None)
