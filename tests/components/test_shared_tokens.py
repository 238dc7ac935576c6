"""The tokens that two vocabularies share, as spaces see them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dskd_components import DSKDLoss, DSKDSpec, Head, Space, SpaceResult, TokenTerm
from dskd_components.components import ComparedRows, SharedTokens, Side
from tests.helpers.strategies import SEEDS, make_batch


@given(pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), unique_by=lambda pair: pair[1]))
def test_each_token_is_paired_once_and_with_a_partner_that_it_had(pairs: list[tuple[int, int]]) -> None:
    student, teacher = (torch.tensor([pair[side] for pair in pairs], dtype=torch.int64) for side in (0, 1))
    shared = SharedTokens.one_to_one(student, teacher)
    found = list(zip(shared.student_ids.tolist(), shared.teacher_ids.tolist(), strict=True))
    assert set(found) <= set(pairs)
    assert sorted(shared.student_ids.tolist()) == sorted({pair[0] for pair in pairs})
    assert len(set(shared.teacher_ids.tolist())) == len(found)
    first = {number: next(theirs for ours, theirs in pairs if ours == number) for number, _ in pairs}
    assert dict(found) == first


class Looking(Space):
    """Keeps what it is given to see."""

    side: ClassVar[Side] = "student"
    seen: ClassVar[list[SharedTokens | None]] = []
    maps: ClassVar[list[Tensor | None]] = []

    name: Literal["looking"] = "looking"
    asks: bool = True
    asks_for_the_map: bool = False

    @property
    def needs_shared_tokens(self) -> bool:
        return self.asks

    @property
    def needs_vocabulary_map(self) -> bool:
        return self.asks_for_the_map

    def compare(self, rows: ComparedRows) -> SpaceResult:
        self.seen.append(rows.shared_tokens)
        self.maps.append(rows.teacher_to_student)
        return SpaceResult(terms={"looked": TokenTerm(values=rows.student_logits.sum(-1) * 0)})


@pytest.mark.parametrize("engine", ["eager", "tiled"])
@given(seed=SEEDS, asks=st.booleans())
def test_a_space_that_asks_gets_the_tokens_that_both_heads_read(engine: Any, seed: int, asks: bool) -> None:
    batch = make_batch(seed, same_tokenizer=False)
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    mapping = torch.randint(-1, 14, (13,), generator=generator)  # the student's head has 11 tokens
    same = torch.randint(0, 2, (13,), generator=generator).bool()
    Looking.seen.clear()
    Looking.maps.clear()
    loss_fn = DSKDLoss(
        DSKDSpec(spaces=[Looking(asks=asks, asks_for_the_map=not asks)], aligner="cma", engine=engine),
        student_hidden_size=5,
        teacher_hidden_size=7,
        teacher_to_student_ids=mapping,
        same_token=same,
    ).double()
    batch.loss(loss_fn)
    expected = {int(ours) for ours, kept in zip(mapping, same, strict=True) if kept and 0 <= ours < 11}
    for shared in Looking.seen:
        assert (shared is not None) == asks
        if shared is not None:
            assert shared.student_ids.tolist() == sorted(expected)
            assert torch.equal(mapping[shared.teacher_ids], shared.student_ids)
            assert same[shared.teacher_ids].all()
    for found in Looking.maps:
        assert (found is not None) != asks
        # Also of tokens that are not the very same.
        assert found is None or torch.equal(found, mapping.where(mapping < 11, -1))


def test_with_one_vocabulary_all_tokens_are_shared() -> None:
    batch = make_batch(0, same_tokenizer=True)
    Looking.seen.clear()
    wider = Head(torch.cat([batch.teacher.head.weight, torch.zeros(2, 7)]))
    Looking.maps.clear()
    spec = DSKDSpec(spaces=[Looking(asks_for_the_map=True)])
    loss_fn = DSKDLoss(spec, student_hidden_size=5, teacher_hidden_size=7)
    loss_fn(batch.student, replace(batch.teacher, head=wider))
    assert Looking.maps[0] is not None
    assert Looking.maps[0].tolist() == [*range(11), -1, -1]
    shared = Looking.seen[0]
    assert shared is not None
    assert shared.student_ids.tolist() == shared.teacher_ids.tolist() == list(range(11))
