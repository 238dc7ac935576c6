"""The tokens that both vocabularies have: against plain loops, and where it is another space."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dskd_components import ConfigurationError, DSKDLoss, DSKDSpec, InputError, get_space
from dskd_components.components import ComparedRows
from dskd_components.components.space import Measure, SharedTokens
from dskd_components.distances import KL
from dskd_components.engines._tiling.logit_part import PartRows
from tests.helpers.leaves import gradients, with_leaves
from tests.helpers.registered import build
from tests.helpers.strategies import SEEDS, make_batch

both_engines = pytest.mark.parametrize("engine", ["eager", "tiled"])


def in_loops(student: list[float], teacher: list[float], pairs: list[tuple[int, int]]) -> float:
    """KL between both conditional distributions of one position, times the teacher's probability of the tokens."""
    ours, theirs = ([math.exp(logit) for logit in side] for side in (student, teacher))
    mine = sum(ours[own] for own, _ in pairs)
    of_teacher = sum(theirs[other] for _, other in pairs)
    found = 0.0
    for own, other in pairs:
        p, q = theirs[other] / of_teacher, ours[own] / mine
        found += p * math.log(p / q)
    return found * of_teacher / sum(theirs)


@given(seed=SEEDS, temperature=st.sampled_from([1.0, 4.0]), pairs=st.integers(1, 4))
def test_it_is_what_plain_loops_give(seed: int, temperature: float, pairs: int) -> None:
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    student, teacher = (2 * torch.randn(3, size, generator=generator, dtype=torch.float64) for size in (5, 7))
    ours, theirs = (torch.randperm(size, generator=generator)[:pairs] for size in (5, 7))
    rows = ComparedRows(
        student_logits=student,
        teacher_logits=teacher,
        targets=torch.zeros(3, dtype=torch.int64),
        teacher_argmax=None,
        measure=Measure(distance=KL(), temperature=temperature, teacher_temperature=temperature, scale=temperature**2),
        shared_tokens=SharedTokens(student_ids=ours, teacher_ids=theirs),
    )
    expected = [
        temperature**2
        * in_loops(
            (student[row] / temperature).tolist(),
            (teacher[row] / temperature).tolist(),
            list(zip(ours.tolist(), theirs.tolist(), strict=True)),
        )
        for row in range(3)
    ]
    torch.testing.assert_close(rows.shared_divergence(None), torch.tensor(expected, dtype=torch.float64))


@both_engines
@pytest.mark.parametrize("distance", ["kl", "js"])
def test_with_one_vocabulary_it_is_shared_vocabulary(distance: str, engine: str) -> None:
    batch, leaves = with_leaves(make_batch(3, same_tokenizer=True))
    spec = DSKDSpec(spaces=("shared_tokens",), distance=distance, temperature=2.0, engine=engine)
    ours, theirs = (build(spec.replace(spaces=(name,)), batch) for name in ("shared_tokens", "shared_vocabulary"))
    found, expected = batch.loss(ours), batch.loss(theirs)
    torch.testing.assert_close(found.terms["shared_kd"], expected.terms["kd"])
    torch.testing.assert_close(gradients(ours, found, leaves), gradients(theirs, expected, leaves))


@both_engines
def test_other_tokens_count_by_the_teachers_share_alone(engine: str) -> None:
    batch, _ = with_leaves(make_batch(5, same_tokenizer=False))
    loss_fn = build(DSKDSpec(spaces=("shared_tokens",), aligner="span", kd_rate=1.0, engine=engine), batch)
    term = batch.loss(loss_fn).terms["shared_kd"]
    # Every second token of the teacher is shared; a bias on the student's others moves nothing.
    weight = batch.student.head.weight
    bias = torch.zeros(len(weight), dtype=weight.dtype)
    bias[1::2] = 3.0
    moved = replace(batch, student=replace(batch.student, head=replace(batch.student.head, bias=bias)))
    assert term > 0
    torch.testing.assert_close(moved.loss(loss_fn).terms["shared_kd"], term)


def test_it_says_what_it_needs() -> None:
    batch = make_batch(5, same_tokenizer=False)
    spec = DSKDSpec(spaces=("shared_tokens",), aligner="span")
    with pytest.raises(ConfigurationError, match="'shared_tokens' must know which tokens"):
        DSKDLoss(spec, student_hidden_size=5, teacher_hidden_size=7)
    nothing = torch.full((batch.teacher.head.vocabulary_size,), -1)
    with pytest.raises(ConfigurationError, match=r"'shared_tokens' needs 1 or more tokens .* have 0 in common"):
        build(spec, batch, mapping=nothing)


def test_where_a_head_is_cut_it_says_what_keeps_it_whole() -> None:
    rows: Any = PartRows.__new__(PartRows)
    with pytest.raises(InputError, match="Leave `reads_logits` of the space True"):
        rows.shared_divergence(None)
    assert get_space("shared_tokens").reads_logits
