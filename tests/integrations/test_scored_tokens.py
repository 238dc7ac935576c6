"""What a window divides by is what the loss itself counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dskd_components import DSKDLoss, DSKDSpec, InputError, scored_tokens
from tests.helpers.models import byte_level_tokenizer, encode, tiny_model

LABELS = st.integers(1, 3).flatmap(
    lambda rows: st.integers(1, 6).flatmap(
        lambda length: st.lists(
            st.lists(st.sampled_from([-100, 0, 5]), min_size=length, max_size=length), min_size=rows, max_size=rows
        )
    )
)


@given(labels=LABELS, data=st.data())
def test_a_label_counts_where_a_position_of_its_segment_predicts_it(
    labels: list[list[int]], data: st.DataObject
) -> None:
    segments = [sorted(data.draw(st.lists(st.integers(0, 2), min_size=len(row), max_size=len(row)))) for row in labels]
    batch = {"student_labels": torch.tensor(labels), "student_segment_ids": torch.tensor(segments)}
    expected = sum(
        row[i] != -100 and numbers[i] == numbers[i - 1]
        for row, numbers in zip(labels, segments, strict=True)
        for i in range(1, len(row))
    )
    assert int(scored_tokens(batch)) == expected
    assert int(scored_tokens([batch, batch])) == 2 * expected


def test_it_is_the_count_of_the_loss() -> None:
    tokenizer = byte_level_tokenizer()
    student, teacher = (tiny_model("Llama", vocabulary=len(tokenizer)) for _ in range(2))
    loss_fn = DSKDLoss.from_models(DSKDSpec(), student, teacher, tokenizer, tokenizer)
    batch = encode(tokenizer, "")
    assert scored_tokens(batch) == loss_fn.run(student, teacher, batch).counts["ce"]


def test_the_students_labels_count_not_the_teachers() -> None:
    batch = {
        "teacher_labels": torch.ones(1, 9, dtype=torch.int64),
        "student_labels": torch.ones(1, 4, dtype=torch.int64),
    }
    assert int(scored_tokens(batch)) == 3


def test_no_batches_have_no_tokens() -> None:
    assert int(scored_tokens([])) == 0


@pytest.mark.parametrize(
    ("batch", "found"),
    [({"teacher_labels": torch.zeros(1, 2)}, "none.*'teacher_labels'"), ({"labels": torch.zeros(3)}, r"shape \[3\]")],
)
def test_a_batch_without_labels_is_refused(batch: Any, found: str) -> None:
    with pytest.raises(InputError, match=f"student_labels.*{found}"):
        scored_tokens(batch)
