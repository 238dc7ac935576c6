"""Ahead of training, in workers, and pickled: always the same columns."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from dskd_components import DualTokenizerCollator, DualTokenizerPreprocessor, InputError
from dskd_components.collation import SampleError, SkipReason
from tests.helpers.collating import byte_level, metaspace
from tests.helpers.processes import forkserver
from tests.helpers.whole_words import WholeWords

SAMPLES: list[dict[str, Any]] = [
    {"prompt": f"What is statement {number}?", "response": f" The value {number * 37} is new."} for number in range(7)
]
CHATS = [
    {"messages": [{"role": "user", "content": sample["prompt"]}, {"role": "assistant", "content": sample["response"]}]}
    for sample in SAMPLES
]


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def fake_map(rows: list[dict[str, Any]], function: Any, batch_size: int) -> list[dict[str, Any]]:
    """`datasets.Dataset.map(batched=True)` in its essentials: columns in, columns out, all of one length."""
    mapped: list[dict[str, Any]] = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        columns = function({name: [row[name] for row in batch] for name in batch[0]})
        (length,) = {len(column) for column in columns.values()}
        mapped += [{name: column[index] for name, column in columns.items()} for index in range(length)]
    return mapped


@pytest.mark.parametrize("samples", [SAMPLES, CHATS], ids=["pairs", "chats"])
@pytest.mark.parametrize("aligner", ["exact_match", "span", None])
def test_preprocessed_samples_make_the_same_batch(samples: list[dict[str, Any]], aligner: str | None) -> None:
    preprocess = DualTokenizerPreprocessor(byte_level(), metaspace(), aligner=aligner, student_max_length=24)
    rows = fake_map(samples, preprocess, batch_size=3)
    assert all(type(value) is int for value in rows[0]["student_input_ids"])
    assert all(isinstance(value, list | int) for value in rows[0].values())
    collate = DualTokenizerCollator(byte_level(), metaspace(), aligner=aligner, student_max_length=24)
    assert same(collate(rows), collate(samples))
    assert same(collate([rows[0], samples[1], rows[2]]), collate(samples[:3]))
    assert [preprocess(sample) for sample in samples] == rows


def test_skipped_rows_are_dropped_and_counted() -> None:
    samples = [*SAMPLES[:2], {"prompt": "What?", "response": ""}, SAMPLES[2], {"prompt": "", "response": ""}]
    preprocess = DualTokenizerPreprocessor(byte_level(), metaspace(), on_error="skip")
    assert fake_map(samples, preprocess, batch_size=2) == fake_map(SAMPLES[:3], preprocess, batch_size=2)
    assert preprocess.skipped == {SkipReason.EMPTY_RESPONSE: 2}
    nothing = preprocess({"prompt": ["a"], "response": [""]})
    assert set(map(len, nothing.values())) == {0}
    with pytest.raises(InputError, match="batched=True"):
        preprocess({"prompt": "a", "response": ""})
    with pytest.raises(InputError, match="columns of one length"):
        preprocess({"prompt": ["a", "b"], "response": ["c"]})
    with pytest.raises(SampleError, match="Sample 2"):
        DualTokenizerPreprocessor(byte_level(), metaspace())({"text": ["the statement", "is new", ""]})
    with pytest.raises(InputError, match="no message of the role 'assistant'"):
        preprocess({"messages": []})
    with pytest.raises(InputError, match="a sequence of messages"):
        preprocess({"messages": {"role": ["user"], "content": ["a"]}})
    with pytest.raises(InputError, match="Unknown key 'id'"):
        preprocess({"id": [1], "text": ["b"]})


@pytest.mark.parametrize("packing", [False, True])
def test_workers_make_the_same_batches(packing: bool) -> None:
    # An aligner of somebody else's: its class is imported where the batches are made.
    aligner = WholeWords(separator="\n") if packing else WholeWords()
    collate = DualTokenizerCollator(byte_level(), metaspace(), aligner=aligner, packing=packing, on_error="skip")
    data = [*SAMPLES[:3], {"text": ""}, *CHATS[:2]]
    alone = list(DataLoader(data, batch_size=3, collate_fn=collate))
    loader = DataLoader(data, batch_size=3, collate_fn=collate, num_workers=2, multiprocessing_context=forkserver())
    if packing:  # one start of worker processes is enough to know
        together = [pickle.loads(pickle.dumps(collate))(data[start : start + 3]) for start in (0, 3)]
    else:
        together = list(loader)
    assert len(together) == 2
    assert all(same(ours, theirs) for ours, theirs in zip(together, alone, strict=True))
    assert [int(batch["skipped"].sum()) for batch in together] == [0, 1]


def test_copies_are_equal_whatever_was_collated() -> None:
    for make in (DualTokenizerCollator, DualTokenizerPreprocessor):
        ours = make(byte_level(), metaspace(), on_error="skip")
        fresh = pickle.dumps(ours)
        if isinstance(ours, DualTokenizerCollator):
            ours([*CHATS, {"text": ""}])
        else:
            ours({"text": ["the statement", ""]})
            ours({"messages": [chat["messages"] for chat in CHATS]})
        assert ours.skipped.total() == 1
        assert pickle.dumps(ours) == fresh
        assert not pickle.loads(fresh).skipped
