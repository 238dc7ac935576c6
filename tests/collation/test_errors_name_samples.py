"""Whoever reads an error about a sample finds it: by its number, and by the beginning of what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dskd_components import (
    DualTokenizerCollator,
    DualTokenizerPreprocessor,
    InputError,
    MultiTeacherCollator,
    get_aligner,
)
from dskd_components.collation import Columns, SampleError
from dskd_components.collation.problems import excerpt
from dskd_components.components.text_methods import method_number
from tests.helpers.collating import ANYTHING, byte_level, metaspace
from tests.helpers.sample_kinds import OF_TWO_TOKENIZERS, preprocessed

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = {"prompt": "the statement", "response": " is the value"}
BAD: dict[str, Any] = {
    "empty response": {"prompt": "needle in a haystack", "response": ""},
    "invalid Unicode": {"prompt": "needle", "response": "\ud800"},
    "cut away": {"prompt": "needle " * 99, "response": "x"},
    "unknown key": {"prompt": "needle", "response": "x", "id": 3},
    "no form": {"prompt": "needle"},
    "wrong type": {"prompt": "needle", "response": 3},
    "no assistant": {"messages": [{"role": "user", "content": "needle"}]},
    "refused by a template": {
        "messages": [{"role": "tool", "content": "needle"}, {"role": "assistant", "content": "x"}]
    },
    "own prompt, scored": {"prompt": "needle", "teacher_prompt": "other", "response": "x"},
    "tokens for two tokenizers": {"input_ids": [1, 2, 3], "labels": [1, 2, 3]},
    "no mapping": "needle",
}
OPTIONS: dict[str, Any] = {"student_max_length": 40}
COLLATORS: dict[str, Callable[..., Any]] = {
    "collator": lambda **options: DualTokenizerCollator(byte_level(), metaspace(), **OPTIONS, **options),
    "several": lambda **options: MultiTeacherCollator(byte_level(), {"large": metaspace()}, **OPTIONS, **options),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("taker", COLLATORS)
def test_collators_give_the_place_in_the_batch_and_an_excerpt(taker: str, kind: str) -> None:
    collate = COLLATORS[taker](train_on_prompt=kind == "own prompt, scored")
    with pytest.raises(InputError, match="Sample 2: ") as caught:
        collate([GOOD, GOOD, BAD[kind], GOOD])
    said = str(caught.value).partition(" The sample: ")[2]
    assert said == excerpt(BAD[kind])
    assert ("needle" in said) == (kind != "tokens for two tokenizers")
    assert str(caught.value).count("The sample: ") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student_fingerprint": 3}, "another tokenizer for the student"),
        ({"teacher_labels": None}, "lacks 'teacher_labels'"),
        ({"student_groups": [0]}, "all of one length"),
        ({"groups_method": method_number(get_aligner("span"))}, "aligned by 'span'"),
        (
            {"student_input_ids": [1] * 50, "student_labels": [1] * 50, "student_groups": [-1] * 50},
            "student_max_length",
        ),
    ],
)
def test_preprocessed_rows_have_their_place_too(change: dict[str, Any], message: str) -> None:
    row = preprocessed() | {"text": "needle"}
    with pytest.raises(InputError, match=f"Sample 3: .*{message}.* The sample: {{") as caught:
        COLLATORS["collator"]()([row, GOOD, row, row | change])
    assert len(str(caught.value)) < 1000
    with pytest.raises(InputError, match=r"Sample 1: .*expected raw samples.* The sample: {"):
        COLLATORS["several"]()([GOOD, row])


def test_raw_samples_keep_their_place_between_preprocessed_ones() -> None:
    row = preprocessed()
    with pytest.raises(SampleError, match="Sample 3: Its response is empty"):
        COLLATORS["collator"]()([row, GOOD, row, BAD["empty response"], row])


def test_a_batch_of_which_nothing_is_left_shows_its_first_sample() -> None:
    for collate in (make(on_error="skip") for make in COLLATORS.values()):
        with pytest.raises(InputError, match=r"None of the 2 samples.*Sample 0: .*needle in a haystack"):
            collate([BAD["empty response"]] * 2)


ROWS = [{"prompt": f"prompt {number}", "response": " is the value"} for number in range(7)]
ROWS[5] = BAD["empty response"]


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("with_indices", [True, False])
def test_numbers_within_map_are_those_of_the_data_set_if_it_gives_them(batched: bool, with_indices: bool) -> None:
    preprocess = DualTokenizerPreprocessor(byte_level(), metaspace())
    data = datasets.Dataset.from_list(ROWS)
    options = {"batch_size": 2} if batched else {}
    with pytest.raises(SampleError) as caught:
        data.map(preprocess, batched=batched, with_indices=with_indices, **options)
    expected = 5 if with_indices else 1 if batched else 0
    assert str(caught.value).startswith(f"Sample {expected}: Its response is empty")
    assert "'prompt': 'needle in a haystack'" in str(caught.value)
    assert ("map(..., with_indices=True)" in str(caught.value)) != with_indices
    kept = data.map(
        DualTokenizerPreprocessor(byte_level(), metaspace(), on_error="skip"),
        batched=True,
        with_indices=with_indices,
        batch_size=2,
        remove_columns=data.column_names,
    )
    assert len(kept) == len(ROWS) - 1


TABLE = datasets.Dataset.from_list([GOOD, GOOD])
NO_LISTS: dict[str, tuple[Any, str]] = {
    "a sample": (GOOD, r"one dict with the keys 'prompt' and 'response'\. .* \[sample\]"),
    "a slice of a data set": (TABLE[:2], r"one dict with the keys 'prompt' and 'response'\. .*zip"),
    "a table": (TABLE.to_pandas(), r"DataFrame\. .*to_dict\('records'\)"),
    "a generator": ((sample for sample in [GOOD]), r"generator\. .*list"),
    "a stream": (TABLE.to_iterable_dataset(), r"IterableDataset\. .*list"),
    "a text": ("the statement", "str"),
    "nothing": (None, "NoneType"),
    "a set": ({1, 2}, "set"),
}


@pytest.mark.parametrize("what", NO_LISTS)
def test_what_is_no_list_of_samples_is_refused(what: str) -> None:
    samples, message = NO_LISTS[what]
    for taker in COLLATORS.values():
        with pytest.raises(InputError, match=f"^Expected a list of samples, but got {message}"):
            taker(on_error="skip")(samples)
    with pytest.raises(InputError, match=f"^Expected a list of samples, but got {message}"):
        COLLATORS["collator"]().teacher_sides(samples)


@pytest.mark.parametrize("what", ["a table", "a generator", "a stream", "a text", "nothing", "a set", "a list"])
def test_what_is_neither_a_sample_nor_columns_is_refused(what: str) -> None:
    preprocess = DualTokenizerPreprocessor(byte_level(), metaspace())
    given = [GOOD] if what == "a list" else NO_LISTS[what][0]
    with pytest.raises(InputError, match=r"^Expected a sample, or columns of several, .*map\(preprocess, batched=True"):
        preprocess(given)


def test_ignored_columns_are_shown_as_they_may_say_which_sample_it_is() -> None:
    preprocess = DualTokenizerPreprocessor(byte_level(), metaspace(), columns=Columns(ignore=["id"]))
    for batch in ({"id": [4], "prompt": ["a"], "response": [""]}, {"id": 4, "prompt": "a", "response": ""}):
        with pytest.raises(SampleError, match=r"The sample: {'id': 4, 'prompt': 'a', 'response': ''}"):
            preprocess(batch)


def test_indices_change_no_column() -> None:
    preprocess = DualTokenizerPreprocessor(byte_level(), metaspace())
    columns = {key: [row[key] for row in ROWS[:3]] for key in ROWS[0]}
    assert preprocess(columns, [10, 11, 12]) == preprocess(columns)
    assert preprocess(ROWS[0], 10) == preprocess(ROWS[0])


@pytest.mark.parametrize("kind", OF_TWO_TOKENIZERS)
def test_an_excerpt_shows_every_column_that_has_a_value(kind: str) -> None:
    said = excerpt(OF_TWO_TOKENIZERS[kind] | {"nothing": None})
    assert all(repr(key) in said for key in OF_TWO_TOKENIZERS[kind])
    assert "nothing" not in said


VALUES = st.recursive(
    st.none() | st.integers() | st.floats() | ANYTHING | st.binary(max_size=5) | st.just("x" * 10_000),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANYTHING, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100)
@given(raw=VALUES | st.dictionaries(st.text(max_size=8), VALUES, max_size=12))
def test_an_excerpt_is_one_short_line_of_letters_that_print(raw: Any) -> None:
    said = excerpt(raw)
    assert said.isprintable()
    assert len(said) < 3000


def test_an_excerpt_of_arrays_is_short() -> None:
    said = excerpt({"input_ids": np.arange(10_000), "labels": list(range(10_000)), 3: object()})
    assert len(said) < 250


def test_a_sample_of_renamed_columns_is_shown_as_it_is() -> None:
    collate = COLLATORS["collator"](columns=Columns(prompt="question", response="answer"))
    with pytest.raises(SampleError, match=r"The sample: {'question': 'needle', 'answer': ''}"):
        collate([{"question": "needle", "answer": ""}])
