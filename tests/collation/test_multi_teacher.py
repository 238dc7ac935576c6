"""Batches for several teachers: each pair's part is what the pair alone would get, cut where all can be cut."""

from __future__ import annotations

import copy
import inspect
import pickle
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dskd_components import ConfigurationError, DualTokenizerCollator, InputError, MultiTeacherCollator
from dskd_components.collation import Columns, SampleError
from tests.helpers.collating import byte_level, metaspace, unigram

TEACHERS = {"large": metaspace, "code": unigram}
ALIGNERS = {"large": "exact_match", "code": "span"}
WORDS = ["statement", "value", "the", "name", "is", "of", "e\u0301", "😀", "x_1", "\n", "  ", "new"]
CHAT = {
    "messages": [
        {"role": "user", "content": "Name a statement."},
        {"role": "assistant", "content": "The value of the statement is a name."},
    ]
}


@cache
def tokenizers() -> dict[str, Any]:
    return {name: make() for name, make in TEACHERS.items()}


@cache
def collator(**options: Any) -> MultiTeacherCollator:
    return MultiTeacherCollator(byte_level(), tokenizers(), aligners=ALIGNERS, **options)


def of_pair(batch: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """One teacher's part under the names that it has alone."""
    student = {key: column for key, column in batch.items() if key.startswith("student_") and "groups" not in key}
    own = {key.replace(name, "teacher", 1): column for key, column in batch.items() if key.startswith(f"{name}_")}
    both = {"groups_method": own.pop("teacher_groups_method"), "skipped": batch["skipped"]}
    return student | own | {"student_groups": batch[f"student_groups_{name}"]} | both


def alone(name: str, **options: Any) -> DualTokenizerCollator:
    return DualTokenizerCollator(byte_level(), tokenizers()[name], aligner=ALIGNERS[name], **options)


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key in found:
        assert torch.equal(found[key], expected[key]), key


texts = st.lists(st.sampled_from(WORDS), min_size=2, max_size=25).map(" ".join)
samples = st.one_of(
    st.fixed_dictionaries({"text": texts}), st.fixed_dictionaries({"prompt": texts, "response": texts}), st.just(CHAT)
)


OPTIONS: dict[str, Any] = {
    "padding_side": "left",
    "pad_to_multiple_of": 8,
    "packing": True,
    "append_eos": False,
    "train_on_prompt": True,
    "byte_positions": True,
    "columns": Columns(prompt="question", response="answer"),
}
"""For each option that is for all models, a value that is not the default."""


def test_every_option_of_one_teacher_is_an_option_of_several() -> None:
    of_one, of_several = (inspect.signature(cls).parameters for cls in (DualTokenizerCollator, MultiTeacherCollator))
    given_by_teacher = {"teacher_tokenizer", "aligner", "teacher_max_length"}
    assert set(of_one) - given_by_teacher <= set(of_several)
    assert set(OPTIONS) == set(of_one) - given_by_teacher - {"student_tokenizer", "student_max_length", "on_error"}
    assert all(of_several[name].default == of_one[name].default for name in OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_has_the_effect_that_it_has_with_one_teacher(name: str) -> None:
    option = {name: OPTIONS[name]}
    keys = ("question", "answer") if name == "columns" else ("prompt", "response")
    raws = [
        dict(zip(keys, texts, strict=True)) for texts in (("the value", " is new"), ("a name of the value", " x_1"))
    ]
    batch = MultiTeacherCollator(eos_tokenizer(), {"large": eos_tokenizer()}, **option)(raws)
    same(of_pair(batch, "large"), DualTokenizerCollator(eos_tokenizer(), eos_tokenizer(), **option)(raws))


@cache
def eos_tokenizer() -> Any:
    tokenizer = copy.deepcopy(byte_level())
    tokenizer.add_special_tokens({"eos_token": "<eos>", "pad_token": "<eos>"})
    return tokenizer


@pytest.mark.parametrize("options", [{}, {"padding_side": "left", "pad_to_multiple_of": 8}, {"packing": True}], ids=str)
@settings(max_examples=15)
@given(raws=st.lists(samples, min_size=1, max_size=3))
def test_without_limits_each_pair_gets_what_it_would_get_alone(options: Any, raws: list[Any]) -> None:
    try:
        expected = {name: alone(name, **options)(raws) for name in TEACHERS}
    except SampleError:
        assume(False)
    batch = collator(**options)(raws)
    for name in TEACHERS:
        same(of_pair(batch, name), expected[name])


@settings(max_examples=25)
@given(raw=samples, student=st.integers(3, 40), large=st.integers(3, 60), code=st.integers(3, 60))
def test_all_models_are_cut_at_the_last_place_that_all_can_be_cut(
    raw: Any, student: int, large: int, code: int
) -> None:
    limits = {"large": large, "code": code}

    def kept(name: str, most: int) -> dict[str, Tensor] | None:
        try:
            return alone(name, student_max_length=most, teacher_max_length=limits[name])([raw])
        except SampleError:
            return None

    # By hand: the longest that both pairs would keep, of all lengths.
    best: dict[str, Any] | None = None
    for length in range(student, 0, -1):
        pairs = {name: kept(name, length) for name in TEACHERS}
        if any(pair is None for pair in pairs.values()):
            break
        if len({pair["student_input_ids"].shape[1] for pair in pairs.values() if pair}) == 1:
            best = pairs
            break
    collate = MultiTeacherCollator(
        byte_level(), tokenizers(), aligners=ALIGNERS, student_max_length=student, teacher_max_lengths=limits
    )
    if best is None:
        with pytest.raises(SampleError):
            collate([raw])
        return
    batch = collate([raw])
    for name in TEACHERS:
        same(of_pair(batch, name), best[name])


def test_a_sample_that_one_teacher_cannot_read_is_left_out_for_all() -> None:
    raws = [{"text": "the value"}, {"prompt": "the", "response": ""}, CHAT]
    with pytest.raises(SampleError, match=r"Teacher 'large': Sample 1: Its response is empty"):
        collator()(raws)
    lenient = MultiTeacherCollator(byte_level(), tokenizers(), aligners=ALIGNERS, on_error="skip")
    batch = lenient(raws)
    assert batch["skipped"].tolist() == [1, 0]
    assert dict(lenient.skipped) == {"empty response": 1}
    same(batch | {"skipped": torch.zeros(2, dtype=torch.int64)}, collator()([raws[0], raws[2]]))
    with pytest.raises(InputError, match=r"None of the 1 samples of the batch can be used: \{'empty response': 1\}"):
        lenient([raws[1]])


def test_a_limit_that_one_teacher_cannot_keep_names_it() -> None:
    tight = MultiTeacherCollator(byte_level(), tokenizers(), aligners=ALIGNERS, teacher_max_lengths={"code": 1})
    with pytest.raises(SampleError, match=r"Teacher 'code': Sample 0: .*teacher_max_length=1 nothing is left to learn"):
        tight([{"prompt": "the value of the statement", "response": " is new"}])


def test_an_aligner_that_is_told_nothing_has_no_groups() -> None:
    batch = MultiTeacherCollator(byte_level(), tokenizers(), aligners={"large": "cma"})([{"text": "the value"}])
    assert "large_groups" not in batch
    assert "student_groups_large" not in batch
    assert {"code_groups", "student_groups_code"} <= batch.keys()


def test_it_goes_to_worker_processes() -> None:
    copy = pickle.loads(pickle.dumps(collator()))
    same(copy([CHAT]), collator()([CHAT]))


@pytest.mark.parametrize(
    ("teachers", "options", "error", "message"),
    [
        ({}, {}, ConfigurationError, "teacher_tokenizers to be a mapping from names"),
        (None, {}, ConfigurationError, "teacher_tokenizers to be a mapping from names"),
        (
            ["large"],
            {"aligners": {"lage": "span"}},
            ConfigurationError,
            r"aligners: unknown teacher 'lage' \(did you mean",
        ),
        (["large"], {"teacher_max_lengths": {"x": 3}}, ConfigurationError, "teacher_max_lengths: unknown teacher 'x'"),
        (["student"], {}, InputError, "columns of that name are the student's"),
        (["large"], {"padding_side": "top"}, ConfigurationError, "padding_side"),
        (["large"], {"on_error": "ignore"}, ConfigurationError, "on_error"),
        (["large"], {"student_max_length": 0}, ConfigurationError, "student_max_length"),
    ],
    ids=repr,
)
def test_what_is_no_collator_is_refused(teachers: Any, options: Any, error: type[Exception], message: str) -> None:
    named = {name: metaspace() for name in teachers} if isinstance(teachers, list) else teachers
    with pytest.raises(error, match=message):
        MultiTeacherCollator(byte_level(), named, **options)


def test_preprocessed_samples_are_for_one_teacher() -> None:
    with pytest.raises(InputError, match="expected raw samples, got one that was preprocessed for a single teacher"):
        collator()([{"groups_method": 1}])
