"""Everything that can be wrong with a sample, a tokenizer or an option has an error with a name."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dskd_components import DualTokenizerCollator, DualTokenizerPreprocessor, InputError, UnknownComponentError
from dskd_components.aligners import MinEdit
from dskd_components.collation import Columns, SampleError, SkipReason
from dskd_components.errors import ConfigurationError
from dskd_components.tokenization.fast_tokenizers import fingerprint_number
from tests.helpers.collating import byte_level, core, metaspace, row_of, unigram, wordpiece

GOOD = {"prompt": "What is new?", "response": " The statement is."}
LONG = {"prompt": "the statement " * 20, "response": " is new"}

UNUSABLE: dict[SkipReason, dict[str, Any]] = {
    SkipReason.EMPTY_TEXT: {"text": ""},
    SkipReason.EMPTY_RESPONSE: {"prompt": "What?", "response": ""},
    SkipReason.NO_ASSISTANT_TURN: {"messages": [{"role": "user", "content": "What?"}]},
    SkipReason.TEMPLATE_REFUSED: {
        "messages": [{"role": "tool", "content": "What?"}, {"role": "assistant", "content": "That."}]
    },
    SkipReason.INVALID_UNICODE: {"prompt": "What\ud800?", "response": "That."},
    SkipReason.PROMPT_TOO_LONG: LONG,
}


def collator(**options: Any) -> DualTokenizerCollator:
    return DualTokenizerCollator(byte_level(), metaspace(), student_max_length=40, **options)


@pytest.mark.parametrize("reason", UNUSABLE)
def test_an_unusable_sample_is_an_error_or_a_count(reason: SkipReason) -> None:
    with pytest.raises(SampleError, match="Sample 1: ") as caught:
        collator()([GOOD, UNUSABLE[reason]])
    assert caught.value.reason is reason
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.reason) == (str(caught.value), reason)

    collate = collator(on_error="skip")
    batch = collate([GOOD, UNUSABLE[reason], GOOD])
    assert collate.skipped == {reason: 1}
    assert batch["skipped"].sum() == 1
    assert batch["skipped"].shape == batch["student_input_ids"].shape[:1]
    assert batch["student_input_ids"].shape[0] == 2
    assert row_of(batch, "teacher", 1) == row_of(collate([GOOD]), "teacher")
    assert collate([GOOD])["skipped"].sum() == 0


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        ({"messages": []}, SkipReason.NO_ASSISTANT_TURN),
        ({"messages": [{"role": "assistant", "content": ""}]}, SkipReason.EMPTY_RESPONSE),
        ({"messages": [{"role": "assistant", "content": "\udcff"}]}, SkipReason.INVALID_UNICODE),
    ],
)
def test_further_ways_to_the_same_reasons(sample: dict[str, Any], reason: SkipReason) -> None:
    with pytest.raises(SampleError) as caught:
        collator()([sample])
    assert caught.value.reason is reason


def test_a_batch_of_which_nothing_is_left_is_an_error() -> None:
    collate = collator(on_error="skip")
    with pytest.raises(InputError, match=r"None of the 2 samples.*'empty text': 1.*'prompt too long': 1"):
        collate([{"text": ""}, LONG])
    with pytest.raises(InputError, match=r"None of the 0 samples.*there are none"):
        collate([])


def test_what_a_tokenizer_does_not_know_is_refused() -> None:
    for tokenizer in (unigram(), wordpiece()):
        collate = DualTokenizerCollator(byte_level(), tokenizer)
        with pytest.raises(SampleError, match=r"unknown to the teacher's tokenizer") as caught:
            collate([{"prompt": "the", "response": " 𒀀𒀁"}])
        assert caught.value.reason is SkipReason.UNREPRESENTABLE
        # In part it is still something to learn from.
        collate([{"prompt": "the", "response": " 𒀀 statement"}])
    silent = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    with pytest.raises(SampleError, match=r"student's.*drops it") as caught:
        DualTokenizerCollator(silent, byte_level())([{"prompt": "a", "response": "xyz"}])
    assert caught.value.reason is SkipReason.NOTHING_SCORED
    with pytest.raises(SampleError) as caught:
        DualTokenizerCollator(silent, byte_level())([{"text": "xyz"}])
    assert caught.value.reason is SkipReason.UNREPRESENTABLE


def test_a_response_that_is_joined_to_its_prompt_is_refused() -> None:
    joined = Tokenizer(models.WordLevel({"ab": 0, "?": 1}, unk_token="?"))
    joined.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(SampleError, match="joins it") as caught:
        DualTokenizerCollator(byte_level(), joined)([{"prompt": "a", "response": "b"}])
    assert caught.value.reason is SkipReason.NOTHING_SCORED
    with pytest.raises(SampleError, match="no token before it") as caught:
        DualTokenizerCollator(joined, joined)([{"text": "ab"}])
    assert caught.value.reason is SkipReason.NOTHING_SCORED


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"labels": [-100, -100, -100]}, "'labels' are all -100"),
        ({"completion_mask": [0, 0, 0]}, "'completion_mask' leaves no token"),
        ({"completion_mask": [0, 0, 1], "assistant_masks": [1, 1, 0]}, "'completion_mask' and 'assistant_masks' leave"),
    ],
)
def test_tokens_of_which_none_is_scored_are_no_fault_of_the_tokenizer(sample: dict[str, Any], message: str) -> None:
    with pytest.raises(SampleError, match=f"^Sample 0: Its {message}.*nothing to learn") as caught:
        DualTokenizerCollator(byte_level(), byte_level())([{"input_ids": [5, 6, 7], **sample}])
    assert caught.value.reason is SkipReason.NOTHING_SCORED
    collate = DualTokenizerCollator(byte_level(), byte_level(), on_error="skip")
    assert len(collate([{"input_ids": [5, 6, 7]}, {"input_ids": [5, 6, 7], **sample}])["student_labels"]) == 1


FORMS = r"'text', or 'prompt' and 'response', or 'messages'"


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"prompt": "a"}, f"Sample 0: A sample with 'prompt' has no known form.*{FORMS}"),
        ({}, f"no keys has no known form.*{FORMS}"),
        ({"text": "a", "response": "b"}, FORMS),
        ({"promt": "a", "response": "b"}, f"Unknown key 'promt'.*did you mean 'prompt'.*{FORMS}"),
        ({"text": 3}, "Expected 'text' to be a text"),
        ("text", f"to be a mapping, but got str.*{FORMS}"),
        ({"messages": "hello"}, "a sequence of messages"),
        ({"messages": ["hello"]}, r"messages\[0\]: expected a mapping"),
        ({"messages": [{"content": "hello"}]}, r"messages\[0\]: expected a mapping with 'role'"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, r"messages\[0\].content\[0\].*'image'"),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_what_is_no_sample_is_never_skipped(sample: Any, message: str, on_error: Any) -> None:
    with pytest.raises(InputError, match=message) as caught:
        collator(on_error=on_error)([sample])
    assert not isinstance(caught.value, SampleError)


def test_columns_have_the_names_one_gives_them() -> None:
    columns = Columns(prompt="question", response="answer", messages="conversation")
    renamed = collator(columns=columns)([{"question": GOOD["prompt"], "answer": GOOD["response"], "text": None}])
    assert row_of(renamed, "student") == row_of(collator()([GOOD]), "student")
    with pytest.raises(InputError, match="'question' and 'answer', or 'conversation'"):
        collator(columns=columns)([GOOD])
    with pytest.raises(ConfigurationError, match="different column names"):
        Columns(prompt="text")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding_side": "top"}, r"padding_side to be one of.*padding_side='top'"),
        ({"on_error": "ignore"}, r"on_error to be one of.*'ignore'"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of=0"),
        ({"teacher_max_length": -1}, "teacher_max_length=-1"),
        ({"teacher_max_length": True}, "teacher_max_length=True"),
        ({"aligner": MinEdit}, r"aligner to be a name, an Aligner or None"),
    ],
)
def test_options_are_checked_when_the_collator_is_built(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DualTokenizerCollator(byte_level(), metaspace(), **options)


def test_aligners_by_name_or_instance_and_tokenizers_that_are_no_fast_ones() -> None:
    with pytest.raises(UnknownComponentError, match="exact_match"):
        DualTokenizerCollator(byte_level(), metaspace(), aligner="exact_mach")
    for aligner in ("cma", "identity", None):
        assert "student_groups" not in DualTokenizerCollator(byte_level(), metaspace(), aligner=aligner)([GOOD])
    by_name, by_instance = (
        DualTokenizerCollator(byte_level(), metaspace(), aligner=aligner)([GOOD])["student_groups"]
        for aligner in ("min_edit", MinEdit(many_to_one="pool"))
    )
    assert torch.equal(by_name, by_instance)
    with pytest.raises(InputError, match="Expected a fast tokenizer"):
        DualTokenizerCollator(byte_level(), object())


def test_bos_is_never_doubled() -> None:
    collate = DualTokenizerCollator(byte_level(), metaspace())
    bos, plain = metaspace().bos_token_id, row_of(collate([GOOD]), "teacher")
    assert plain["input_ids"].count(bos) == 1
    spelt = row_of(collate([{"prompt": "<s>" + GOOD["prompt"], "response": GOOD["response"]}]), "teacher")
    assert spelt["input_ids"].count(bos) == 1
    assert spelt["input_ids"][0] == bos


def test_eos_is_each_sides_own_and_never_doubled() -> None:
    collate = DualTokenizerCollator(byte_level(), unigram())
    rows = [row_of(collate([GOOD]), side) for side in ("student", "teacher")]
    for row, tokenizer in zip(rows, (byte_level(), unigram()), strict=True):
        assert row["input_ids"].count(tokenizer.eos_token_id) == 1
        assert row["labels"][-1] == tokenizer.eos_token_id
    assert rows[0]["groups"][-1] == rows[1]["groups"][-1] >= 0
    # The teacher has none: its [SEP] is scored by nobody and belongs to nothing.
    rows = [row_of(DualTokenizerCollator(byte_level(), wordpiece())([GOOD]), side) for side in ("student", "teacher")]
    assert rows[0]["labels"][-1] == byte_level().eos_token_id
    assert (rows[0]["groups"][-1], rows[1]["groups"][-1], rows[1]["labels"][-1]) == (-1, -1, -100)
    without = row_of(DualTokenizerCollator(byte_level(), metaspace(), append_eos=False)([GOOD]), "student")
    assert without["input_ids"] == rows[0]["input_ids"][:-1]
    spelt = row_of(collate([GOOD | {"response": GOOD["response"] + "<|im_end|>"}]), "student")
    assert spelt["input_ids"] == row_of(collate([GOOD]), "student")["input_ids"]


def test_eos_is_not_appended_to_a_text_that_is_cut() -> None:
    whole = row_of(DualTokenizerCollator(byte_level(), metaspace())([GOOD]), "student")["input_ids"]
    collate = DualTokenizerCollator(byte_level(), metaspace(), student_max_length=len(whole) - 1)
    batch = collate([GOOD])
    assert row_of(batch, "student")["input_ids"] == whole[:-1]
    assert row_of(batch, "teacher")["input_ids"][-1] != metaspace().eos_token_id


def test_padding_is_the_padding_token_else_eos_else_zero() -> None:
    bare = byte_level().backend_tokenizer
    samples = [{"text": "the"}, GOOD]
    filled = DualTokenizerCollator(byte_level(), metaspace())(samples)
    assert filled["student_input_ids"][0, -1] == byte_level().pad_token_id
    assert filled["teacher_input_ids"][0, -1] == metaspace().eos_token_id
    assert DualTokenizerCollator(bare, bare)([{"text": "the statement"}, GOOD])["student_input_ids"][0, -1] == 0


def test_batches_say_which_tokenizers_made_them() -> None:
    batch = collator()([GOOD])
    for side, tokenizer in (("student", byte_level()), ("teacher", metaspace())):
        assert batch[f"{side}_fingerprint"].dtype == torch.int64
        assert batch[f"{side}_fingerprint"].shape == batch["student_input_ids"].shape[:1]
        assert set(batch[f"{side}_fingerprint"].tolist()) == {fingerprint_number(tokenizer)}
        assert fingerprint_number(tokenizer) >= 0
    assert not (batch["student_fingerprint"] == batch["teacher_fingerprint"]).any()


def test_preprocessed_samples_of_other_tokenizers_are_refused() -> None:
    row = DualTokenizerPreprocessor(byte_level(), metaspace())(GOOD)
    with pytest.raises(InputError, match="another tokenizer for the teacher"):
        DualTokenizerCollator(byte_level(), unigram())([row])
    with pytest.raises(InputError, match="another tokenizer for the student"):
        DualTokenizerCollator(metaspace(), metaspace())([row])
    with pytest.raises(InputError, match=r"aligned by 'exact_match'.*for 'span'"):
        DualTokenizerCollator(byte_level(), metaspace(), aligner="span")([row])
    with pytest.raises(InputError, match=r"student tokens, but student_max_length=3.*to the preprocessor"):
        DualTokenizerCollator(byte_level(), metaspace(), student_max_length=3)([row])
    collate = DualTokenizerCollator(byte_level(), metaspace())
    with pytest.raises(InputError, match="lacks 'teacher_labels'"):
        collate([{name: value for name, value in row.items() if name != "teacher_labels"}])
    with pytest.raises(InputError, match=r"'student_groups'.*all of one length"):
        collate([row | {"student_groups": [0]}])


def test_tokenizers_may_be_bare() -> None:
    ours = DualTokenizerCollator(byte_level().backend_tokenizer, metaspace().backend_tokenizer, append_eos=False)
    theirs = DualTokenizerCollator(byte_level(), metaspace(), append_eos=False)
    for side in ("student", "teacher"):
        assert row_of(ours([GOOD]), side) == row_of(theirs([GOOD]), side)
    assert core(b"  a", (0, 3)) == (2, 3)
    assert isinstance(byte_level(), PreTrainedTokenizerFast)
