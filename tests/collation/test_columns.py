"""Every column of a batch has the batch's rows, so that whoever cuts, joins or sends rows need know no column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from accelerate.utils.operations import (
    concatenate,
    find_batch_size,
    get_data_structure,
    initialize_tensors,
    slice_tensors,
)

from dskd_components import (
    DSKDSpec,
    DualTokenizerCollator,
    DualTokenizerPreprocessor,
    InputError,
    MultiTeacherCollator,
    MultiTeacherLoss,
    MultiTeacherSpec,
)
from examples.tiny import Pair, tiny_pair

if TYPE_CHECKING:
    from collections.abc import Callable

Batch = dict[str, "torch.Tensor"]
SPEC = DSKDSpec.preset("dskd", aligner="exact_match")
BAD = {"prompt": "Nothing follows.", "response": ""}


@pytest.fixture(scope="module")
def pair() -> Pair:
    return tiny_pair(spec=SPEC)


def collator(pair: Pair, **options: Any) -> DualTokenizerCollator:
    # Rows of one length, as joined batches need them.
    options = {"pad_to_multiple_of": 128 if options.get("packing") else 64} | options
    tokenizers = (pair.student_tokenizer, pair.teacher_tokenizer)
    return DualTokenizerCollator(*tokenizers, aligner="exact_match", on_error="skip", **options)


def preprocessed(pair: Pair) -> Callable[[Any], Batch]:
    tokenizers = (pair.student_tokenizer, pair.teacher_tokenizer)
    preprocess = DualTokenizerPreprocessor(*tokenizers, aligner="exact_match")
    collate = collator(pair)
    return lambda samples: collate([preprocess(sample) for sample in samples if sample is not BAD])


def several(pair: Pair, **options: Any) -> MultiTeacherCollator:
    teachers = {"large": pair.teacher_tokenizer, "code": pair.student_tokenizer}
    options = {"pad_to_multiple_of": 128 if options.get("packing") else 64} | options
    return MultiTeacherCollator(pair.student_tokenizer, teachers, on_error="skip", **options)


COLLATORS: dict[str, Callable[[Pair], Any]] = {
    "right": collator,
    "left": lambda pair: collator(pair, padding_side="left"),
    "packed": lambda pair: collator(pair, packing=True),
    "preprocessed": preprocessed,
    "several teachers": several,
    "several teachers, packed": lambda pair: several(pair, packing=True),
}


def loss_of(pair: Pair, batch: Batch) -> float:
    """The loss, as a sum over tokens."""
    with torch.no_grad():
        if "large_input_ids" not in batch:
            return pair.loss_fn.run(pair.student.eval(), pair.teacher, batch, num_items_in_batch=1).loss.item()
        teachers: dict[str, Any] = {"large": pair.teacher, "code": pair.student}
        torch.manual_seed(0)
        loss_fn = MultiTeacherLoss.from_models(
            MultiTeacherSpec(teachers={key: {"aligner": "exact_match"} for key in teachers}),
            pair.student,
            teachers,
            pair.student_tokenizer,
            {"large": pair.teacher_tokenizer, "code": pair.student_tokenizer},
        )
        return loss_fn.run(pair.student.eval(), teachers, batch, num_items_in_batch=1).loss.item()


@pytest.mark.parametrize("name", COLLATORS)
def test_columns_have_the_rows_of_the_batch(pair: Pair, name: str) -> None:
    batch = COLLATORS[name](pair)([*pair.samples[:3], BAD])
    assert {len(column) for column in batch.values()} == {1 if "packed" in name else 3}
    assert {column.dtype for column in batch.values()} == {torch.int64}
    assert int(batch["skipped"].sum()) == (0 if name == "preprocessed" else 1)


@pytest.mark.parametrize("name", COLLATORS)
def test_batches_may_be_joined_sent_and_cut(pair: Pair, name: str) -> None:
    """As Accelerate's dispatcher does on its way from one process to others."""
    collate = COLLATORS[name](pair)
    batches = [collate([*pair.samples[first : first + 2], BAD]) for first in (0, 2, 4)]
    joined = concatenate(batches)
    sent = initialize_tensors(get_data_structure(joined))
    assert {key: column.shape for key, column in sent.items()} == {key: column.shape for key, column in joined.items()}
    rows = find_batch_size(joined)
    cut = [slice_tensors(joined, slice(first, first + 1)) for first in range(rows)]
    total = sum(loss_of(pair, batch) for batch in batches)
    assert sum(loss_of(pair, batch) for batch in cut) == pytest.approx(total, rel=1e-5)
    assert loss_of(pair, joined) == pytest.approx(total, rel=1e-5)
    skipped = sum(int(batch["skipped"].sum()) for batch in batches)
    assert int(joined["skipped"].sum()) == sum(int(batch["skipped"].sum()) for batch in cut) == skipped


def test_other_tokenizers_are_seen_in_any_row(pair: Pair) -> None:
    batch = collator(pair)(pair.samples[:3])
    for row in range(3):
        other = batch["teacher_fingerprint"].clone()
        other[row] += 1
        with pytest.raises(InputError, match="another teacher tokenizer"):
            loss_of(pair, batch | {"teacher_fingerprint": other})
    # One number for the whole batch, as loops of one's own may have it.
    number = {"teacher_fingerprint": batch["teacher_fingerprint"][0]}
    assert loss_of(pair, batch | number) == loss_of(pair, batch)


@pytest.mark.parametrize("name", COLLATORS)
def test_a_batch_without_rows_is_refused_in_words(pair: Pair, name: str) -> None:
    """What is left for a process when one packed row is cut over two."""
    batch = slice_tensors(COLLATORS[name](pair)(pair.samples[:2]), slice(0, 0))
    with pytest.raises(InputError, match=r"'student_input_ids' has no rows.*split_batches"):
        loss_of(pair, batch)
