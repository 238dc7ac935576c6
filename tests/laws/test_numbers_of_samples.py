"""Numbers of samples and of groups are names: whatever int64 they are, the loss is the same."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_components import DSKDSpec, InputError, TokenGroups
from tests.helpers.registered import build, names
from tests.helpers.strategies import SEEDS, Batch, make_batch

if TYPE_CHECKING:
    from torch import Tensor

every_aligner = pytest.mark.parametrize("aligner", names("aligner"))
# Multiples of 2**32 are alike in their lower half; neighbours of them, where a sample's number runs over.
INT64 = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.sampled_from([k * 2**32 + d for k in range(-3, 4) for d in (-1, 0, 1)])
)


def renamed(numbers: Tensor, names: list[int], none: int | None = None) -> Tensor:
    found = numbers.clone()
    for old, new in enumerate(names):
        found[numbers == old] = new
    assert none is None or (found[numbers == none] == none).all()
    return found


def with_segments(batch: Batch, segments: list[int]) -> Batch:
    sides = {}
    for side in ("student", "teacher"):
        states = getattr(batch, side)
        sides[side] = replace(states, segment_ids=renamed(states.segment_ids, segments))
    return replace(batch, **sides)


@every_aligner
@settings(max_examples=12)
@given(
    seed=SEEDS,
    segments=st.lists(INT64, min_size=3, max_size=3, unique=True),
    groups=st.lists(INT64.filter(lambda n: n not in (-1, -100)), min_size=17, max_size=17, unique=True),
)
def test_any_numbers(aligner: str, seed: int, segments: list[int], groups: list[int]) -> None:
    spec = DSKDSpec(aligner=aligner)
    batch = make_batch(seed, same_tokenizer=spec.aligner.same_tokenizer).packed()
    loss_fn = build(spec, batch)
    expected = batch.loss(loss_fn)
    told = TokenGroups(*(renamed(side, groups, none=-1) for side in (batch.groups.student, batch.groups.teacher)))
    found = replace(with_segments(batch, segments), groups=told).loss(loss_fn)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-9, atol=1e-9)
    assert found.counts == expected.counts


@every_aligner
def test_rows_are_samples_of_their_own_under_any_numbers(aligner: str) -> None:
    spec = DSKDSpec(aligner=aligner)
    batch = make_batch(0, same_tokenizer=spec.aligner.same_tokenizer)
    loss_fn = build(spec, batch)
    # Each row's only segment is what the next row would begin with, if numbers ran over.
    numbers = -torch.arange(3)[:, None] * 2**32
    sides = {
        side: replace(getattr(batch, side), segment_ids=numbers.expand_as(getattr(batch, side).targets))
        for side in ("student", "teacher")
    }
    torch.testing.assert_close(replace(batch, **sides).loss(loss_fn).loss, batch.loss(loss_fn).loss)


def test_a_group_of_minus_100_is_a_mistake() -> None:
    batch = make_batch(0, same_tokenizer=False)
    told = TokenGroups(torch.full_like(batch.groups.student, -100), batch.groups.teacher)
    with pytest.raises(InputError, match=r"alignment.*-100.*-1"):
        replace(batch, groups=told).loss(build(DSKDSpec(aligner="span"), batch))


def test_an_index_below_minus_1_is_a_mistake() -> None:
    batch = make_batch(0, same_tokenizer=False)
    with pytest.raises(InputError, match=r"alignment.*0 to 7, or -1, got -100"):
        build(DSKDSpec(aligner="span"), batch)(batch.student, batch.teacher, alignment=torch.full((3, 6), -100))
