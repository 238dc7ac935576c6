"""Means over tokens: one division, however the batches were cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dskd_components import DSKDOutput
from dskd_components.integrations.token_means import TokenMeans, first_rows, own_rows

BATCHES = st.lists(st.tuples(st.integers(0, 50), st.floats(0, 10)), min_size=1, max_size=6)


def output(value: float) -> DSKDOutput:
    tensor = torch.tensor(value)
    return DSKDOutput(loss=tensor, terms={"ce": tensor}, counts={}, metrics={"accuracy": tensor})


@given(batches=BATCHES)
def test_the_mean_of_batches_is_weighted_by_their_tokens(batches: list[tuple[int, float]]) -> None:
    means = TokenMeans()
    for tokens, value in batches:
        means.add(output(value), scored=torch.tensor(tokens), divided_by=torch.tensor(tokens))
    expected = sum(tokens * value for tokens, value in batches) / max(sum(tokens for tokens, _ in batches), 1)
    assert means.take() == pytest.approx(dict.fromkeys(("loss", "ce", "accuracy"), expected), rel=1e-4, abs=1e-5)
    assert means.take() == {}


def test_ranks_add_up_before_the_division() -> None:
    means = TokenMeans()
    means.add(output(1.0), scored=torch.tensor(10), divided_by=10)
    other = torch.tensor([2.0 * 30] * 3 + [30.0] * 3)  # totals in the order of the names, then the tokens of each
    assert means.take(lambda row: row + other)["ce"] == pytest.approx((10 + 60) / 40)


def test_metrics_are_divided_by_their_own_tokens() -> None:
    means = TokenMeans()
    for covered, accuracy in ((2, 1.0), (30, 0.5)):
        share, count = torch.tensor(accuracy), torch.tensor(covered)
        one = DSKDOutput(loss=torch.tensor(1.0), terms={}, counts={"accuracy": count}, metrics={"accuracy": share})
        means.add(one, scored=torch.tensor(40), divided_by=40)
    assert means.take()["accuracy"] == pytest.approx((2 + 15) / 32)


@given(rows=st.integers(1, 4), ranks=st.integers(1, 4), data=st.data())
def test_ranks_share_a_remainder_without_repetition(rows: int, ranks: int, data: st.DataObject) -> None:
    remainder = data.draw(st.integers(1, rows * ranks))
    batch = {"student_labels": torch.arange(rows)[:, None], "skipped": torch.tensor(0)}
    kept = [own_rows(batch, rank=rank, remainder=remainder) for rank in range(ranks)]
    assert sum(kept) == remainder
    assert kept == sorted(kept, reverse=True)
    cut = first_rows(batch, kept[0])
    assert cut["student_labels"].flatten().tolist() == list(range(kept[0]))
    assert cut["skipped"] is batch["skipped"]
